//! `listen = "unix"`: where the sockets are, and what does not fit to it.

use super::*;
use crate::{
    config::settings::{Listen, Sockets},
    rules::{address::Address, ids::Color},
};

#[test]
fn an_app_on_sockets_has_one_for_each_color_below_the_runtime_directory() {
    let app = shop(&with("listen = \"unix\"\nbuild = [\"make {socket}\"]\nenv.SOCKET = \"{socket}\""));
    assert_eq!(app.listen, Listen::Sockets(Sockets { directory: "/run/bgd/a/shop".into() }));
    assert_eq!(app.address_at(Color::Green, 0), Address::Socket("/run/bgd/a/shop/green.sock".into()));
    let tcp = shop(&with("listen = \"tcp\"\nports = [9601, 9602]"));
    assert_eq!((tcp.listen.clone(), tcp.address_at(Color::Blue, 0)), (Listen::Ports, Address::Port(9601)));
}

#[test]
fn an_app_on_sockets_has_one_instance_for_each_color() {
    let found = errors(&with("listen = \"unix\"\ninstances = 2"));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("is not possible with listen = \"unix\""), "{found:#?}");
}

#[test]
fn apps_on_sockets_claim_no_ports() {
    let app = "remote = \"https://git.example.com/a.git\"\nstart = \"x\"\nlisten = \"unix\"\n";
    let both = format!("[app.shop]\n{app}[app.blog]\n{app}front.listen = \"127.0.0.1:8081\"\n");
    assert!(load(&both).is_ok(), "{:?}", load(&both));
}

#[test]
fn what_does_not_fit_to_where_an_app_listens_is_refused() {
    let unix = |more: &str| errors(&with(&format!("listen = \"unix\"\n{more}")));
    assert_eq!(unix("ports = [9501, 9502]"), ["5 app.shop.ports: has no effect with listen = \"unix\""]);
    let lost = "has {port}, which stands for nothing here";
    assert_eq!(unix("build = [\"make\", \"make {port}\"]"), [format!("5 app.shop.build[1]: {lost}")]);
    assert_eq!(unix("env.A = \"{port}\""), [format!("5 app.shop.env.A: {lost}")]);
    assert_eq!(unix("stop = { command = \"x {port}\" }"), [format!("5 app.shop.stop.command: {lost}")]);
    assert_eq!(unix("hooks.after_live = \"x {port}\""), [format!("5 app.shop.hooks.after_live: {lost}")]);
    assert_eq!(unix("health.command = \"x {port}\""), [format!("5 app.shop.health.command: {lost}")]);
    let rewrite = unix("[[app.shop.rewrite]]\nfile = \"a\"\nfind = \"b\"\nwith = \"{port}\"");
    assert_eq!(rewrite, [format!("8 app.shop.rewrite[0].with: {lost}")]);
    assert_eq!(unix("env.SOCKET = \"/x\""), ["5 app.shop.env.SOCKET: is set by bgd itself"]);
    let tcp = errors(&with("build = \"make {socket}\""));
    assert_eq!(tcp, ["4 app.shop.build: has {socket}, which stands for nothing here"]);
    let wrong = errors(&with("listen = \"0.0.0.0:80\""));
    assert_eq!(wrong, ["4 app.shop.listen: is no way to listen: \"0.0.0.0:80\""]);
}

#[test]
fn a_path_that_no_socket_can_have_or_nginx_can_not_be_told_is_refused() {
    let app = with("listen = \"unix\"\n");
    let long = format!("[daemon]\nruntime_dir = \"/run/{}\"\n{app}", "x".repeat(85));
    let found = errors(&long);
    assert!(found[0].contains("app.shop.listen: too long for a unix socket: 108 bytes"), "{found:?}");
    let nginx = "[app.shop.front]\ntype = \"nginx\"\nupstream = \"shop\"\n";
    let blank = format!("{app}{nginx}file = \"/etc/my nginx/bgd.conf\"\n");
    let said = "app.shop.listen: can't be named in nginx's configuration: /etc/my nginx/.bgd.conf.live";
    assert!(errors(&blank)[0].ends_with(said), "{:?}", errors(&blank));
    assert!(load(&format!("{app}{nginx}")).is_ok());
}
