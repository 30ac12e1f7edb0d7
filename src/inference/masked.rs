//! A generator that reads placeholders in place of personal data.

use std::ops::ControlFlow;

use super::generator::{GenerateError, GenerateRequest, Generation, Generator, Step, Turn};
use crate::endpoint::masking::{Mask, Unmasker};

/// Said before the request where something was masked.
const HINT: &str =
    "Marks such as [EMAIL_1] or [NAME_1] stand for personal data. Where the reply needs one, copy it unchanged.";

/// Masks what goes to a model server outside, and puts the values back into its reply.
pub struct MaskedGenerator {
    inner: Box<dyn Generator>,
}

impl MaskedGenerator {
    pub fn new(inner: Box<dyn Generator>) -> Self {
        Self { inner }
    }
}

impl Generator for MaskedGenerator {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let mut mask = Mask::default();
        let request = masked(request, &mut mask);
        let mut unmasker = Unmasker::new(&mask);
        let mut tell = |step: Step<'_>| match step {
            Step::Reading => on_step(Step::Reading),
            Step::Text(text) => match unmasker.push(text) {
                shown if shown.is_empty() => on_step(Step::Reading),
                shown => on_step(Step::Text(&shown)),
            },
        };
        let generation = self.inner.generate(&request, &mut tell)?;
        let rest = unmasker.finish();
        if !rest.is_empty() && on_step(Step::Text(&rest)).is_break() {
            // It is over in any case.
            tracing::debug!("the reader left at the last word");
        }
        Ok(Generation { text: mask.unmask(&generation.text), ..generation })
    }
}

/// The request as the server may read it. Shared turns are the team's own prompts, which hold nothing of a customer's.
fn masked(request: &GenerateRequest, mask: &mut Mask) -> GenerateRequest {
    let mask_turn = |(at, turn): (usize, &Turn)| match at < request.shared_turns {
        true => turn.clone(),
        false => Turn { role: turn.role, content: mask.mask(&turn.content) },
    };
    let mut turns: Vec<Turn> = request.turns.iter().enumerate().map(mask_turn).collect();
    if !mask.is_empty()
        && let Some(last) = turns.last_mut()
    {
        last.content = format!("{HINT}\n\n{}", last.content);
    }
    GenerateRequest { turns, ..request.clone() }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::generator::{Role, StopReason};
    use super::*;

    /// Keeps what it was asked and writes the given pieces.
    struct Scripted {
        asked: Arc<Mutex<Vec<GenerateRequest>>>,
        pieces: Vec<&'static str>,
    }

    impl Generator for Scripted {
        fn name(&self) -> &str {
            "scripted"
        }
        fn is_local(&self) -> bool {
            false
        }
        fn generate(
            &mut self,
            request: &GenerateRequest,
            on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
        ) -> Result<Generation, GenerateError> {
            self.asked.lock().expect("unpoisoned").push(request.clone());
            let text = self.pieces.concat();
            let stop = match self.pieces.iter().any(|piece| on_step(Step::Text(piece)).is_break()) {
                true => StopReason::Cancelled,
                false => StopReason::End,
            };
            Ok(Generation { text, stop, prompt_tokens: 0, reused_tokens: 0, written_tokens: self.pieces.len() })
        }
    }

    fn turn(role: Role, content: &str) -> Turn {
        Turn { role, content: content.to_owned() }
    }

    #[test]
    fn the_server_reads_placeholders_and_the_customer_reads_the_values() {
        let asked = Arc::default();
        let pieces = vec!["We sent it to [EM", "AIL_1", "]. Not to [EMAIL", "_9]."];
        let mut generator = MaskedGenerator::new(Box::new(Scripted { asked: Arc::clone(&asked), pieces }));
        let request = GenerateRequest {
            turns: vec![
                turn(Role::System, "Write to help@desk.example if unsure."),
                turn(Role::User, "No mail reaches ana@correo.example. Call +34 612 345 678."),
            ],
            shared_turns: 1,
            max_tokens: 50,
        };
        let mut shown = String::new();
        let written = generator.generate(&request, &mut |step| {
            if let Step::Text(text) = step {
                shown.push_str(text);
            }
            ControlFlow::Continue(())
        });
        let written = written.expect("a reply");
        assert_eq!(written.text, "We sent it to ana@correo.example. Not to [email].");
        assert_eq!(shown, written.text);
        let asked = asked.lock().expect("unpoisoned");
        assert_eq!(asked[0].turns[0], request.turns[0], "the team's prompt stays as it is");
        let sent = &asked[0].turns[1].content;
        assert!(sent.starts_with(HINT) && sent.contains("[EMAIL_1]") && sent.contains("[PHONE_1]"), "{sent}");
        assert!(!sent.contains("correo.example") && !sent.contains("612"), "{sent}");
    }

    #[test]
    fn a_request_without_personal_data_is_sent_as_it_is() {
        let asked = Arc::default();
        let mut generator =
            MaskedGenerator::new(Box::new(Scripted { asked: Arc::clone(&asked), pieces: vec!["Restart it."] }));
        let turns = vec![turn(Role::User, "The program shows error 0x800CCC0F on port 993.")];
        let request = GenerateRequest { turns, shared_turns: 0, max_tokens: 50 };
        generator.generate(&request, &mut |_| ControlFlow::Continue(())).expect("a reply");
        assert_eq!(asked.lock().expect("unpoisoned")[0].turns, request.turns);
    }
}
