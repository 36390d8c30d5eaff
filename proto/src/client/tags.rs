//! What the protocol has no field for: it travels in tags, which every SDK hands to the application.

use std::borrow::Cow;

use crate::v1;
use v1::publication::Mark;

/// The tags of a publication, by name.
///
/// `id` is that given by its publisher. `deleted` marks what was retracted: there is nothing left of it but its place. `deletes`
/// and `clears` tell members which publication, or which and all before it, they are not to show any more.
pub fn tags(publication: &v1::Publication) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
    let id = (!publication.id.is_empty()).then_some(("id", Cow::Borrowed(publication.id.as_str())));
    let mark = publication.mark.map(|mark| match mark {
        Mark::Deleted(_) => ("deleted", Cow::Borrowed("1")),
        Mark::Deletes(seq) => ("deletes", Cow::Owned(seq.to_string())),
        Mark::Clears(seq) => ("clears", Cow::Owned(seq.to_string())),
    });
    id.into_iter().chain(mark)
}
