//! What nginx refuses is taken back: whatever was there before bgd wrote is there again.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use bgd::{
    front::nginx::{NginxError, RouteError},
    rules::ids::Color::{Blue, Green},
};

use super::stage::App;
use super::{Stage, limits, shell};

/// All that is in a directory: where links lead; of files the mode and each byte.
fn photograph(directory: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let taken = entries.map(|path| {
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = match meta.is_symlink() {
            true => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            false => fs::read(&path).unwrap(),
        };
        (path, (meta.mode(), bytes))
    });
    taken.collect()
}

/// The site has an upstream of the app's name itself, in a file that nginx reads after bgd's.
fn write_rival(stage: &Stage) {
    let site = format!(
        "upstream shop {{ server 127.0.0.1:9; }}\nserver {{ listen {}; location / {{ return 200 theirs; }} }}\n",
        stage.public
    );
    stage.write("conf.d/site.conf", &site);
}

fn assert_nginx_accepts(stage: &Stage) {
    let [program, arguments @ ..] = stage.settings.test.as_slice() else { unreachable!() };
    let said = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[tokio::test]
async fn n3_a_first_file_that_nginx_refuses_is_taken_back_whatever_was_in_its_place() {
    let mut stage = stage!();
    write_rival(&stage);
    stage.start_nginx("").await;
    assert_eq!(stage.nginx.rivals().await, [stage.path("conf.d/site.conf")]);
    let file = stage.settings.file.clone();
    let nothing = || {};
    let empty = || fs::write(&file, "").unwrap();
    let dangling = || {
        fs::remove_file(&file).unwrap();
        symlink(stage.path("elsewhere.conf"), &file).unwrap();
    };
    let befores: [&dyn Fn(); 3] = [&nothing, &empty, &dangling];
    for before in befores {
        before();
        let photo = photograph(&stage.path("conf.d"));
        let err = stage.nginx.ensure_file().await.unwrap_err();
        assert!(
            matches!(&err, NginxError::OwnConfig(fault) if fault.quote.contains("duplicate upstream")),
            "{err:?}"
        );
        assert_eq!(photograph(&stage.path("conf.d")), photo);
        let err = stage.nginx.route(&stage.route(1, Blue), limits()).await.unwrap_err();
        let RouteError::TakenBack(NginxError::OwnConfig(fault)) = err else { panic!("{err:?}") };
        assert!(fault.quote.contains("duplicate upstream \"shop\""), "{}", fault.quote);
        assert_eq!(photograph(&stage.path("conf.d")), photo);
        assert!(!stage.path("elsewhere.conf").exists());
        // nginx can't read a link that leads nowhere, with or without bgd.
        if !file.is_symlink() {
            assert_nginx_accepts(&stage);
        }
    }

    stage.write_site();
    assert_eq!(stage.nginx.rivals().await, Vec::<PathBuf>::new());
    let _blue = App::start(Blue, stage.ports.blue).await;
    stage.nginx.route(&stage.route(2, Blue), limits()).await.unwrap();
    assert_eq!(stage.get("/").await.unwrap(), "blue");
}

#[tokio::test]
async fn n3_a_file_that_was_there_comes_back_with_its_mode_and_every_byte() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut stage = stage!();
    stage.serve(Blue).await;
    let mut bytes = fs::read(&stage.settings.file).unwrap();
    bytes.extend(b"# in Latin-1: M\xfcller\n");
    fs::write(&stage.settings.file, bytes).unwrap();
    fs::set_permissions(&stage.settings.file, fs::Permissions::from_mode(0o640)).unwrap();
    stage.write("conf.d/zzz.conf", "bogus;");
    let photo = photograph(&stage.path("conf.d"));
    let err = stage.nginx.route(&stage.route(2, Green), limits()).await.unwrap_err();
    assert!(matches!(err, RouteError::ForeignConfig(_)), "{err:?}");
    assert_eq!(photograph(&stage.path("conf.d")), photo);
}

#[tokio::test]
async fn n3_the_placeholders_of_two_apps_that_one_site_names_are_both_written() {
    let mut stage = stage!();
    stage.start_nginx("").await;
    let site = "server { listen 127.0.0.1:9; location /a { proxy_pass http://shop; } location /b { proxy_pass http://cart; } }";
    stage.write("conf.d/site.conf", site);
    assert!(stage.nginx.ensure_file().await.unwrap(), "cart is still unknown, which is not shop's fault");
    assert!(stage.second_app("cart").nginx.ensure_file().await.unwrap());
    assert_nginx_accepts(&stage);
    stage.assert_tidy();
}

#[tokio::test]
async fn n3_a_file_that_a_foreign_fault_had_hidden_is_taken_back_once_nginx_refuses_it() {
    let mut stage = stage!();
    write_rival(&stage);
    stage.start_nginx("").await;
    stage.write("conf.d/aaa.conf", "bogus;");
    assert!(stage.nginx.ensure_file().await.unwrap(), "nobody can tell yet");
    fs::remove_file(stage.path("conf.d/aaa.conf")).unwrap();
    let err = stage.nginx.ensure_file().await.unwrap_err();
    assert!(matches!(err, NginxError::OwnConfig(_)), "{err:?}");
    assert!(!stage.settings.file.exists());
    assert_nginx_accepts(&stage);
}

/// Leaves a flip as a bgd leaves it that is killed while nginx tests the new file.
async fn killed_within_the_test(stage: &Stage, generation: u64) {
    let photo = stage.path("photo");
    let mut settings = stage.settings.clone();
    let (live, copy) = (stage.path("conf.d"), photo.display());
    settings.test = shell(&format!("[ -e {copy} ] || cp -a {} {copy}; false", live.display()));
    stage.with(settings).route(&stage.route(generation, Green), limits()).await.unwrap_err();
    fs::remove_dir_all(&live).unwrap();
    fs::rename(photo, live).unwrap();
}

#[tokio::test]
async fn n3_a_bgd_killed_before_nginx_judged_a_file_takes_it_back_when_it_starts() {
    let mut stage = stage!();
    write_rival(&stage);
    stage.start_nginx("").await;
    let photo = photograph(&stage.path("conf.d"));
    killed_within_the_test(&stage, 1).await;
    assert_ne!(photograph(&stage.path("conf.d")), photo);
    let err = stage.nginx.ensure_file().await.unwrap_err();
    assert!(matches!(err, NginxError::OwnConfig(_)), "{err:?}");
    assert_eq!(photograph(&stage.path("conf.d")), photo);
    stage.stop_nginx().await;

    // Over a file that nginx has in force, which comes back; what nginx accepts is left to the next flip.
    stage.serve(Blue).await;
    let photo = photograph(&stage.path("conf.d"));
    killed_within_the_test(&stage, 2).await;
    assert!(!stage.nginx.ensure_file().await.unwrap());
    assert!(stage.include().contains("\"color\":\"green\""));
    stage.write("conf.d/zzz.conf", "bogus;");
    assert!(!stage.nginx.ensure_file().await.unwrap());
    fs::remove_file(stage.path("conf.d/zzz.conf")).unwrap();
    assert_eq!(photograph(&stage.path("conf.d")), photo);
}
