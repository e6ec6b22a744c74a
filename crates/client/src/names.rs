//! One node, one name.

/// `path` without the name of the cell `cell`, so that two names of one node compare equal: `/ls/local/a` and
/// `/ls/<cell>/a` are `/a`. A name of another cell stays as it is.
pub(crate) fn canonical(path: &str, cell: &str) -> String {
    let within = path.strip_prefix("/ls/").and_then(|rest| {
        let (name, rest) = rest.find('/').map_or((rest, ""), |end| rest.split_at(end));
        (name == "local" || (name == cell && !name.is_empty())).then_some(rest)
    });
    match within {
        Some("") => "/".to_owned(),
        Some(within) => within.to_owned(),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_one_name() {
        for (path, name) in [
            ("/a/b", "/a/b"),
            ("/ls/local/a/b", "/a/b"),
            ("/ls/berlin/a", "/a"),
            ("/ls/paris/a", "/ls/paris/a"),
            ("/ls/local", "/"),
            ("/ls/berlin/", "/"),
            ("/lsx/local", "/lsx/local"),
            ("/ls/localx/a", "/ls/localx/a"),
        ] {
            assert_eq!(canonical(path, "berlin"), name);
        }
        assert_eq!(canonical("/ls//a", ""), "/ls//a", "no cell is known");
    }
}
