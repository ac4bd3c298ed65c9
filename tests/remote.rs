//! S3 and Bedrock from the command line; without their features, what is said instead.

use crate::cli::rankine;

#[cfg(all(feature = "s3", feature = "aws"))]
mod amazon;

#[test]
fn a_wrong_address_is_told_before_anything_is_made() {
    let here = tempfile::tempdir().unwrap();
    let export = ["export", "--base", "nothing", "--target", "merged", "--out", "s3:/bucket/a"];
    rankine(here.path(), &export).ends(2).says("`s3:/bucket/a` is no address on S3").says("give `s3://bucket/folder`");
    let import = ["bedrock", "import", "s3://bucket/a"];
    rankine(here.path(), &import).ends(2).says("--role <ARN>");
}

#[cfg(not(feature = "s3"))]
#[test]
fn without_the_feature_s3_is_named() {
    let here = tempfile::tempdir().unwrap();
    let export = ["export", "--base", "nothing", "--target", "merged", "--out", "s3://bucket/a"];
    rankine(here.path(), &export).ends(2).says("without the feature `s3`").says("--features s3");
    rankine(here.path(), &["push", ".", "s3://bucket/a"]).ends(2).says("without the feature `s3`");
    assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 0, "nothing was made");
}

#[cfg(not(feature = "aws"))]
#[test]
fn without_the_feature_aws_is_named() {
    let here = tempfile::tempdir().unwrap();
    let invoke = ["bedrock", "invoke", "arn:aws:bedrock:us-east-1:1:imported-model/a", "--message", "Hello"];
    rankine(here.path(), &invoke).ends(2).says("without the feature `aws`").says("--features s3,aws");
}
