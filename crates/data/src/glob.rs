//! Path patterns: `*`, `?`, `[a-c]`, `{a,b}` and `**`.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Whether the text has anything that only a pattern would have.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// The paths that match, sorted, so that the order of records does not depend on the file system.
pub(crate) fn matches(root: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for pattern in alternatives(pattern) {
        let parts: Vec<Component<'_>> = Path::new(&pattern).components().collect();
        descend(root.to_path_buf(), &parts, &mut found)?;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether the whole of a path with `/` between its parts fits a pattern, without looking at any disk. As in
/// [`matches`], `*` stays within one part and a part that is hidden has to be asked for.
pub(crate) fn path_fits(pattern: &str, path: &str) -> bool {
    let path: Vec<Vec<char>> = path.split('/').map(|part| part.chars().collect()).collect();
    alternatives(pattern).iter().any(|pattern| {
        let pattern: Vec<Vec<char>> =
            pattern.trim_start_matches("./").split('/').map(|part| part.chars().collect()).collect();
        parts_fit(&pattern, &path)
    })
}

/// Matches from the front; with `**` as the only place to go back to, as in [`name_matches`].
fn parts_fit(pattern: &[Vec<char>], path: &[Vec<char>]) -> bool {
    let crosses = |part: &Vec<char>| part == &['*', '*'];
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < path.len() {
        let hidden = path[n].first() == Some(&'.');
        match pattern.get(p) {
            // A last `**` stands for files, too.
            Some(part) if crosses(part) => {
                star = Some((p, n));
                p += 1;
                if p == pattern.len() {
                    return path[n..].iter().all(|part| part.first() != Some(&'.'));
                }
                continue;
            }
            Some(part) if name_matches(part, &path[n]) && (!hidden || part.first() == Some(&'.')) => {
                p += 1;
                n += 1;
                continue;
            }
            _ => {}
        }
        match star {
            Some((at, from)) if path[from].first() != Some(&'.') => {
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
            _ => return false,
        }
    }
    p == pattern.len()
}

fn descend(at: PathBuf, parts: &[Component<'_>], found: &mut Vec<PathBuf>) -> io::Result<()> {
    let Some((part, rest)) = parts.split_first() else {
        found.push(at);
        return Ok(());
    };
    let Component::Normal(name) = part else {
        // `/`, `..` and prefixes are taken as they are.
        return descend(at.join(part), rest, found);
    };
    let name = name.to_string_lossy();
    if name == "**" {
        // A folder that `**` crosses may be the last one, too.
        descend(at.clone(), rest, found)?;
        for folder in entries(&at)?.into_iter().filter(|entry| entry.is_dir() && !entry.is_symlink()) {
            descend(folder, parts, found)?;
        }
        return Ok(());
    }
    if !is_pattern(&name) {
        let next = at.join(name.as_ref());
        return if next.exists() { descend(next, rest, found) } else { Ok(()) };
    }
    let pattern: Vec<char> = name.chars().collect();
    for entry in entries(&at)? {
        let file: Vec<char> = entry.file_name().unwrap_or_default().to_string_lossy().chars().collect();
        // As in a shell, a hidden file has to be asked for.
        if name_matches(&pattern, &file) && (file.first() != Some(&'.') || pattern.first() == Some(&'.')) {
            descend(entry, rest, found)?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

/// Matches with the last `*` as the only place to go back to, so that no pattern takes exponential time.
fn name_matches(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&'*') {
            star = Some((p, n));
            p += 1;
        } else if let Some(length) = one_matches(&pattern[p..], name[n]) {
            p += length;
            n += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            n = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// How much of the pattern the character uses up, if it fits.
fn one_matches(pattern: &[char], c: char) -> Option<usize> {
    match pattern.first()? {
        '?' => Some(1),
        '[' => match Class::parse(pattern) {
            Some(class) => class.has(c).then_some(class.length),
            None => (c == '[').then_some(1),
        },
        literal => (*literal == c).then_some(1),
    }
}

/// `[!a-cx]`.
struct Class {
    length: usize,
    negated: bool,
    members: Vec<(char, char)>,
}

impl Class {
    /// `None` if it is not closed.
    fn parse(pattern: &[char]) -> Option<Self> {
        let negated = matches!(pattern.get(1), Some('!' | '^'));
        let first = if negated { 2 } else { 1 };
        // A bracket right at the start is a member.
        let close = first + 1 + pattern.get(first + 1..)?.iter().position(|c| *c == ']')?;
        let inside = &pattern[first..close];
        let mut members = Vec::new();
        let mut at = 0;
        while at < inside.len() {
            let is_range = inside.get(at + 1) == Some(&'-') && at + 2 < inside.len();
            let last = if is_range { at + 2 } else { at };
            members.push((inside[at], inside[last]));
            at = last + 1;
        }
        Some(Self { length: close + 1, negated, members })
    }

    fn has(&self, c: char) -> bool {
        self.members.iter().any(|&(low, high)| (low..=high).contains(&c)) != self.negated
    }
}

/// `{a,b}` written out, one group after the other; a group that is not closed stands for itself.
fn alternatives(pattern: &str) -> Vec<String> {
    const MOST: usize = 256;
    let mut done = Vec::new();
    let mut open = vec![pattern.to_owned()];
    while let Some(pattern) = open.pop() {
        let group = pattern.find('{').and_then(|start| pattern[start..].find('}').map(|end| (start, start + end)));
        match group {
            Some((start, end)) if done.len() + open.len() < MOST => open.extend(
                pattern[start + 1..end]
                    .split(',')
                    .map(|choice| format!("{}{choice}{}", &pattern[..start], &pattern[end + 1..])),
            ),
            _ => done.push(pattern),
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        let pattern: Vec<char> = pattern.chars().collect();
        let name: Vec<char> = name.chars().collect();
        name_matches(&pattern, &name)
    }

    #[test]
    fn names_match_as_in_a_shell() {
        for (pattern, name, yes) in [
            ("*.jsonl", "a.jsonl", true),
            ("*.jsonl", "a.json", false),
            ("a*b*c", "a-xx-b-c", true),
            ("a*b*c", "a-xx-c-b", false),
            ("part-?.json", "part-7.json", true),
            ("part-[0-3].json", "part-2.json", true),
            ("part-[!0-3].json", "part-2.json", false),
            ("[", "[", true),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, name), yes, "{pattern} {name}");
        }
        // Quadratic, not exponential.
        assert!(!fits(&"*a".repeat(30), &"a".repeat(29)));
    }

    #[test]
    fn whole_paths_fit_without_a_disk() {
        for (pattern, path, yes) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "x/a.csv", false),
            ("**/*.csv", "a.csv", true),
            ("**/*.csv", "x/y/a.csv", true),
            ("data/**", "data/x/a.csv", true),
            ("data/**", "data/a.csv", true),
            ("data/**", "other/a.csv", false),
            ("**", "x/a.csv", true),
            ("**", ".git/a.csv", false),
            ("**/a.csv", ".git/a.csv", false),
            (".git/*", ".git/a.csv", true),
            ("x/**/b/*.csv", "x/b/a.csv", true),
            ("x/**/b/*.csv", "x/b/c/b/a.csv", true),
            ("x/**/b/*.csv", "x/b/c/d/a.csv", false),
            ("./a.csv", "a.csv", true),
            ("{a,b}/*-[0-9].csv", "b/x-7.csv", true),
            ("data/train-*", "data/train-00000-of-00001.parquet", true),
        ] {
            assert_eq!(path_fits(pattern, path), yes, "{pattern} {path}");
        }
    }

    #[test]
    fn paths_match_across_folders_in_sorted_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "x/a.jsonl", "x/y/c.jsonl", "x/y/d.csv", ".hidden/e.jsonl"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            matches(folder.path(), pattern)
                .unwrap()
                .iter()
                .map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string())
                .collect()
        };
        assert_eq!(found("x/**/*.jsonl"), ["x/a.jsonl", "x/y/c.jsonl"]);
        assert_eq!(found("x/*/{c,d}.*"), ["x/y/c.jsonl", "x/y/d.csv"]);
        assert_eq!(found("*.jsonl"), ["b.jsonl"]);
        assert!(found("gone/*.jsonl").is_empty());
    }
}
