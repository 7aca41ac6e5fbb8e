// The smallest app: says which commit it is, and finishes its requests before it ends.
const http = require('node:http');

const server = http.createServer((request, response) => {
  response.end(`${process.env.BGD_COMMIT ?? 'unknown'}\n`);
});
// The port is given by bgd; only the front has to reach it.
server.listen(Number(process.env.PORT), '127.0.0.1');

process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
