<?php

// The smallest app with a front controller: says which commit it is, whatever the path.
$body = (getenv('BGD_COMMIT') ?: 'unknown') . "\n";
header('Content-Type: text/plain');
header('Content-Length: ' . strlen($body));
echo $body;
