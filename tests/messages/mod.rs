//! Every failure that a user can meet, provoked on the real binary; what it prints is in `messages.txt`, worth
//! reading from the top. `BGD_BLESS=1 cargo test --test whole messages` writes that file anew.

mod book;
mod commands;
mod deploys;
mod files;
mod fronts;
mod remotes;

use std::thread;

use book::Book;

/// In the order of the file; each with a stage of its own, all at once: most of it is waiting.
const CHAPTERS: [fn(&mut Book); 9] = [
    deploys::the_release_is_to_blame,
    deploys::the_release_does_not_get_ready,
    deploys::the_deploy_is_called_off,
    fronts::the_front_is_to_blame,
    fronts::haproxy_is_to_blame,
    fronts::the_disk_is_to_blame,
    remotes::the_remote_is_to_blame,
    commands::the_request_or_the_daemon_is_to_blame,
    files::the_configuration_is_to_blame,
];

#[test]
fn every_failure_message_is_as_in_messages_txt() {
    let books: Vec<Book> = thread::scope(|scope| {
        let tell = |chapter: fn(&mut Book)| {
            scope.spawn(move || {
                let mut book = Book::default();
                chapter(&mut book);
                book
            })
        };
        let threads = CHAPTERS.map(tell);
        threads.into_iter().map(|thread| thread.join().expect("the chapter is told")).collect()
    });
    let scenes: Vec<_> = books.into_iter().flat_map(|book| book.scenes).collect();
    book::compare(&scenes);
    for scene in scenes.iter().filter(|scene| scene.is_deploy) {
        assert_is_complete(&scene.title, &scene.said);
    }
}

/// A failed deploy says what was attempted, what serves now and the next command.
fn assert_is_complete(title: &str, said: &str) {
    let hint = said.lines().find_map(|line| line.strip_prefix("hint: "));
    let hint = hint.unwrap_or_else(|| panic!("{title}: there is no hint in\n{said}"));
    let command =
        ["`bgd ", "`nginx", "`ss ", "`ssh-key", "`systemctl"].iter().any(|word| hint.contains(word));
    assert!(command, "{title}: the hint names no command: {hint}");
    let serves = said.lines().any(|line| line.contains(" serves on ") || line == "nothing is live");
    assert!(serves, "{title}: what serves now is not said in\n{said}");
    let attempted = said.lines().any(|line| line.starts_with("error: ") && line.contains("deploy #N"));
    assert!(attempted, "{title}: what was attempted is not said in\n{said}");
}
