//! Thousands of connections that stay open across a flip: each asked once before it and asks once after it.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::stage::{
    Res, Table,
    http::Client,
    scene::{Kind, Scene},
};

/// Of the app that is deployed.
const BUILD: &str = "build = \"sh build.sh\"";

pub fn run(connections: usize) -> Res<()> {
    let connections = connections.min(open_files()?);
    let mut table = Table::new(
        &format!("{connections} open connections across a flip"),
        &["", "answered by the new version", "closed while idle, answered anew", "lost"],
    );
    for kind in Kind::BOTH {
        let Some(scene) = Scene::set(kind, BUILD, "10ms")? else { continue };
        scene.deploy("old")?;
        let mut clients: Vec<Client> = (0..connections).map(|_| Client::new(scene.public)).collect();
        for client in &mut clients {
            client.get("/")?;
        }
        scene.deploy("new")?;
        let (mut answered, mut anew, mut lost) = (0, 0, 0);
        for client in &mut clients {
            match client.get("/") {
                Ok(answer) if answer.status == 200 && answer.field("x-version") == "new" => answered += 1,
                // A reload closes what is idle; clients know that and ask again.
                Err(err) if kind == Kind::Nginx && is_closed(&err) => match client.get("/") {
                    Ok(answer) if answer.status == 200 && answer.field("x-version") == "new" => anew += 1,
                    Ok(_) | Err(_) => lost += 1,
                },
                Ok(_) | Err(_) => lost += 1,
            }
        }
        table.row([kind.name().to_owned(), answered.to_string(), anew.to_string(), lost.to_string()]);
    }
    table.print();
    Ok(())
}

fn is_closed(err: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(err.kind(), K::UnexpectedEof | K::ConnectionReset | K::BrokenPipe)
}

/// How many connections the limit of this process leaves room for, and of the front, which inherits it.
fn open_files() -> Res<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(usize::try_from(hard.saturating_sub(500)).unwrap_or(usize::MAX))
}
