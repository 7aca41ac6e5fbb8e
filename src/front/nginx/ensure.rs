//! Writes the file before the first route, and judges the file of a bgd that was killed during a flip: a text that
//! nginx does not have in force stays only if nginx accepts it. A refused text is taken back, so that nginx can start
//! again without bgd.

use super::{
    ConfigFault, Nginx, NginxError, PresentInclude, ReloadLimits, SocketLink, TestFailure, effect,
    link::MovedLink,
    place::{Audience, FormerFile},
    placed::Placed,
};

impl Nginx {
    /// Writes a file that routes nowhere (nginx answers 502) if there is none yet, so that an nginx whose site
    /// names the upstream can start before the first deploy. A file that was left unproven is tested again.
    /// Reloads nothing; returns whether it wrote a file.
    pub async fn ensure_file(&self) -> Result<bool, NginxError> {
        let turn = self.turn.clone().lock_owned().await;
        let present = self.present()?;
        let (place, text) = (present.place.clone(), present.text.clone());
        if is_blank(text.as_deref()) {
            let parked = self.unrouted(&present)?;
            let mut placed = Placed::write(place, text, (parked, None), turn).await?;
            self.judge_unproven(&mut placed, &present).await?;
            placed.settle();
            return Ok(true);
        }
        if self.is_unproven(&present).await {
            let (old, moved) = self.before(&present);
            self.judge_unproven(&mut Placed::found(place, old, moved, turn), &present).await?;
        }
        Ok(false)
    }

    /// Whether the file has a text of an interrupted flip, or one from before the first route, that nginx does not have
    /// in force.
    async fn is_unproven(&self, present: &PresentInclude) -> bool {
        let Some(found) = &present.found else { return false };
        (found.include.is_parked() || present.place.kept().is_some())
            && !effect::ask(found.include.proof).await.is_ok_and(|effect| effect.sum == found.sum)
    }

    /// The text before an unproven one, and the link that was set for the unproven one.
    fn before(&self, present: &PresentInclude) -> (Option<String>, Option<MovedLink>) {
        let old = match present.place.kept() {
            Some(FormerFile::Text(text)) => Some(text),
            Some(FormerFile::Nothing) | None => None,
        };
        let named = |text: &str| super::parse(text).ok().and_then(|found| found.include.link);
        let link = present.found.as_ref().and_then(|found| found.include.link.clone());
        let own = link.filter(|link| old.as_deref().and_then(named).as_ref() != Some(link));
        let link = own.and_then(|link| SocketLink::on_the_way(&present.place, link.socket()?));
        (old, link.and_then(MovedLink::leftover))
    }

    /// Tests an unproven text and leaves it if nginx accepts it, else restores the state before it. If another file is
    /// to blame for the refusal, a file that routes nowhere is left where there is none, because the sites may need it.
    async fn judge_unproven(&self, placed: &mut Placed, present: &PresentInclude) -> Result<(), NginxError> {
        let fault = match self.test(present, ReloadLimits::default().command).await {
            // Accepted, or not read by nginx: the text is not refused.
            Ok(()) | Err(TestFailure::NotRun(_) | TestFailure::Unknown(_)) => return Ok(()),
            Err(TestFailure::Own(fault) | TestFailure::Foreign(fault)) => fault,
        };
        placed.take_back().await?;
        if self.is_to_blame(present, &fault).await {
            return Err(NginxError::OwnConfig(fault));
        }
        self.park(present)
    }

    /// Whether bgd's text was the reason for nginx's refusal; called after the text was taken back.
    pub(super) async fn is_to_blame(&self, present: &PresentInclude, fault: &ConfigFault) -> bool {
        if self.test(present, ReloadLimits::default().command).await.is_ok() {
            return true;
        }
        let duplicate = format!("duplicate upstream \"{}\"", self.settings.upstream);
        let quoted = fault.quote.contains(&duplicate)
            || fault.file.as_ref().is_some_and(|file| self.is_own(&present.place, file));
        quoted && present.place.read().is_ok_and(|text| is_blank(text.as_deref()))
    }

    /// Writes a file that routes nowhere, where there is none.
    pub(super) fn park(&self, present: &PresentInclude) -> Result<(), NginxError> {
        if is_blank(present.place.read()?.as_deref()) {
            present.place.replace(&self.unrouted(present)?, Audience::Everybody)?;
        }
        Ok(())
    }

    /// A text that routes nowhere: the present one if it does.
    fn unrouted(&self, present: &PresentInclude) -> Result<String, NginxError> {
        let proof = match (&present.found, &present.text) {
            (Some(found), Some(text)) if found.include.is_parked() => return Ok(text.clone()),
            (Some(found), _) => found.include.proof,
            (None, _) => effect::choose(&self.addresses)?,
        };
        Ok(self.parked(proof).render())
    }
}

fn is_blank(text: Option<&str>) -> bool {
    text.is_none_or(|text| text.trim().is_empty())
}
