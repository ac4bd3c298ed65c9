//! Files of the repository that are made from the program: none is stale.

use super::root;

#[test]
fn the_committed_schema_is_the_programs() {
    let path = root().join("recipes/recipe.schema.json");
    let committed = std::fs::read_to_string(path).expect("recipes/recipe.schema.json");
    let committed: serde_json::Value = serde_json::from_str(&committed).expect("JSON");
    assert!(
        committed == rankine::recipe::json_schema(),
        "recipes/recipe.schema.json is stale: `rankine schema > recipes/recipe.schema.json`"
    );
}

#[test]
fn the_readmes_recipe_reference_is_the_programs() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let (_, rest) = readme.split_once("<!-- recipe-reference:begin -->\n").expect("the reference begins");
    let (table, _) = rest.split_once("<!-- recipe-reference:end -->").expect("the reference ends");
    assert!(
        table.trim() == rankine::recipe::markdown().trim(),
        "the recipe reference in README.md is stale: put the output of `rankine schema --markdown` between its markers"
    );
}

#[test]
fn every_shipped_recipe_parses_and_names_the_schema() {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("recipes")).expect("recipes/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a recipe");
        assert!(text.starts_with("# yaml-language-server: $schema=./recipe.schema.json\n"), "{}", path.display());
        if let Err(bad) = rankine::recipe::read(&path, &[]) {
            panic!("{}: {bad}", path.display());
        }
        count += 1;
    }
    assert!(count >= 5, "{count} recipes");
}
