//! What is wrong with what a person wrote: every fault at once, each with its place and the next step.

use std::fmt;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceSpan};

/// Faults in an input, with the texts that their places point into.
#[derive(Debug, Clone, Default)]
pub struct BadInput {
    /// Texts that [`Place::source`] indexes.
    pub sources: Vec<Source>,
    /// What is wrong; never empty where this is an error.
    pub faults: Vec<Fault>,
}

/// A text that a person wrote: the recipe's file, or one `--set` argument.
#[derive(Debug, Clone)]
pub struct Source {
    /// How it is called in a message.
    pub name: String,
    /// The whole text.
    pub text: String,
}

/// A range of bytes in one of the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index into [`BadInput::sources`].
    pub source: usize,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What, in one sentence.
    pub what: String,
    /// Where, if it is in a source.
    pub place: Option<Place>,
    /// Short text under the place.
    pub label: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Fault {
    /// A fault without a place.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), place: None, label: None, help: None }
    }

    /// The same fault, at a place.
    #[must_use]
    pub fn at(mut self, place: impl Into<Option<Place>>) -> Self {
        self.place = place.into();
        self
    }

    /// The same fault with a short text under its place.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The same fault with the next step.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl BadInput {
    /// One fault that is in no source.
    pub fn one(fault: Fault) -> Self {
        Self { sources: Vec::new(), faults: vec![fault] }
    }

    /// One report a fault, in the order of the sources' text.
    pub fn reports(mut self) -> Vec<FaultReport> {
        self.faults.sort_by_key(|fault| match fault.place {
            Some(place) => (place.source, place.start),
            None => (usize::MAX, 0),
        });
        self.faults.dedup();
        let reports = self.faults.into_iter().map(|fault| {
            let source = fault.place.and_then(|place| self.sources.get(place.source));
            FaultReport { source: source.map(|s| NamedSource::new(&s.name, s.text.clone())), fault }
        });
        reports.collect()
    }
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}", fault.what)?;
            if let Some(help) = &fault.help {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for BadInput {}

/// A fault beside its text, as miette draws it.
#[derive(Debug)]
pub struct FaultReport {
    fault: Fault,
    source: Option<NamedSource<String>>,
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fault.what)
    }
}

impl std::error::Error for FaultReport {}

impl Diagnostic for FaultReport {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.fault.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.as_ref().map(|source| source as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.fault.place?;
        let span = SourceSpan::new(place.start.into(), place.end.saturating_sub(place.start));
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(self.fault.label.clone(), span))))
    }
}

/// Why a command ended, other than by doing its work.
#[derive(Debug)]
pub enum Failure {
    /// What the person gave cannot be used. Exit code 2.
    BadInput(BadInput),
    /// The work failed. Exit code 1.
    Failed(Fault),
    /// Stopped by the person; a checkpoint holds what was done. Exit code 130.
    Interrupted(Fault),
}

impl Failure {
    /// The process's exit code, as the README documents it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BadInput(_) => 2,
            Self::Failed(_) => 1,
            Self::Interrupted(_) => 130,
        }
    }

    /// Bad input with a single fault.
    pub fn bad_input(fault: Fault) -> Self {
        Self::BadInput(BadInput::one(fault))
    }
}

impl From<BadInput> for Failure {
    fn from(bad: BadInput) -> Self {
        Self::BadInput(bad)
    }
}

/// An error and all its causes in one sentence, without repeating a cause that its error already tells.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
