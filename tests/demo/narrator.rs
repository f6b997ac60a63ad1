//! What the demo says.

use std::io::{self, IsTerminal, Write};

use agent_tests::{Cmd, Finished, Outcome};

/// Tells a story in numbered steps; colours only on a terminal.
pub struct Narrator {
    steps: usize,
    checks: usize,
    colours: bool,
}

impl Narrator {
    /// A story that has not begun.
    pub fn new() -> Self {
        Self { steps: 0, checks: 0, colours: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Begins a step.
    pub fn step(&mut self, title: &str, words: &str) {
        self.steps += 1;
        self.scene(&format!("{}. {title}", self.steps), words);
    }

    /// Begins what is no step of its own: what comes before the first, and after the last.
    pub fn scene(&self, title: &str, words: &str) {
        println!("\n{}", self.painted("1", title));
        self.say(words);
    }

    /// Explains.
    pub fn say(&self, words: &str) {
        for line in words.lines() {
            println!("   {line}");
        }
        let _ = io::stdout().flush();
    }

    /// Runs a command as somebody, and shows it and what it wrote.
    ///
    /// # Errors
    /// It cannot be started, or takes too long.
    pub fn run(&self, who: &str, command: &Cmd) -> Outcome<Finished> {
        println!("\n   {} {}", self.painted("36", &format!("{who}$")), command.shown());
        let _ = io::stdout().flush();
        let finished = command.run()?;
        for line in finished.stdout.lines().chain(finished.stderr.lines()) {
            println!("   {}", self.painted("2", line));
        }
        Ok(finished)
    }

    /// States something that must be so.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&mut self, what: &str, so: bool) -> Outcome {
        if !so {
            return Err(format!("this is not so: {what}"));
        }
        self.checks += 1;
        println!("   {} {what}", self.painted("32", "✓"));
        Ok(())
    }

    /// Ends the story well.
    pub fn end(&self) {
        println!("\nDone: {} steps, {} checks.", self.steps, self.checks);
    }

    /// Ends it badly.
    pub fn failed(&self, reason: &str) {
        let place = if self.steps == 0 { "while setting up".to_owned() } else { format!("at step {}", self.steps) };
        println!("\n{} {reason}", self.painted("31", &format!("Failed {place}:")));
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.into() }
    }
}
