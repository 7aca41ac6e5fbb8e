//! `bgd status --oneline`: one line an app, free of ages, so that a line changes only when something happened
//! (`-w` in a pipe depends on that). Pure.

use crate::{
    api::wire::AppReport,
    cli::{
        status::summary,
        terminal::{StreamStyle, Tone, one_line},
        wording,
    },
    rules::words::Outcome,
};

pub fn line(app: &AppReport, look: StreamStyle) -> String {
    let mut parts = vec![summary::headline(app)];
    if let Some(live) = &app.live {
        let subject = live.subject.as_deref().map(|subject| format!(" {:?}", one_line(subject)));
        let since = wording::moment(live.since);
        parts.push(format!(
            "{}{} on {} since {since}Z",
            live.commit.short(),
            subject.unwrap_or_default(),
            live.color
        ));
        parts.extend((live.restarts > 0).then(|| format!("restart {} in a row", live.restarts)));
    }
    if let Some(deploy) = &app.deploy {
        let commit = wording::short(deploy.commit.as_ref());
        parts.push(format!("deploy #{} of {commit} {}", deploy.id, wording::doing(deploy.phase)));
    }
    parts.extend(summary::idle(app));
    parts.extend(
        app.hold.iter().map(|hold| format!("hold by {}: {}", one_line(&hold.by), one_line(&hold.reason))),
    );
    parts.extend(app.remote.error.iter().map(|error| format!("remote: {}", one_line(error))));
    if let Some(last) = app.last.as_ref().filter(|last| !matches!(last.outcome, Outcome::Live)) {
        let commit = wording::short(last.commit.as_ref());
        parts.push(format!("last deploy #{} of {commit} {}", last.id, wording::ended(last.outcome)));
    }
    format!("{}: {}", look.paint(Tone::Strong, app.name.as_str()), parts.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::fixture;

    #[test]
    fn one_line_says_all_that_matters() {
        assert_eq!(
            line(&fixture::live(), StreamStyle::PLAIN),
            "shop: live, healthy | a1a1a1a \"Fix the cart total\" on blue since 2026-11-21 07:39:12Z"
        );
        assert_eq!(
            line(&fixture::failed(), StreamStyle::PLAIN),
            "shop: live, healthy | a1a1a1a \"Fix the cart total\" on blue since 2026-11-21 07:39:12Z \
             | last deploy #7 of c3c3c3c failed"
        );
        let mut app = fixture::live();
        app.live.iter_mut().for_each(|live| live.restarts = 4);
        assert!(line(&app, StreamStyle::PLAIN).ends_with("Z | restart 4 in a row"));
        assert_eq!(line(&fixture::empty(), StreamStyle::PLAIN), "shop: nothing deployed yet");
    }
}
