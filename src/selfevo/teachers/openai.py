"""An annotator behind an API: a stronger model that criticises and refines, told the gold answer where there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from selfevo.config.sections import OpenAIAnnotator
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.records import Drafted, content_id
from selfevo.method.verdicts import Verdict
from selfevo.models.chat_template import messages
from selfevo.models.endpoint import Ask, Endpoint, Reply
from selfevo.tasks.base import AnnotatedTask, Problem
from selfevo.teachers.base import Annotation
from selfevo.teachers.written import Written, read_written, schema


class OpenAITeacher:
    """`problems`: gold answers by prompt id, with the task that checks them; empty where nobody has them.

    What it writes is checked before it counts: it must be the JSON asked for, and agree with the gold answer.
    """

    def __init__(
        self,
        config: OpenAIAnnotator,
        endpoint: Endpoint,
        task: AnnotatedTask | None = None,
        problems: Mapping[str, Problem] | None = None,
        wording: Wording = ENGLISH,
    ) -> None:
        self.config, self.endpoint, self.task, self.problems = config, endpoint, task, problems or {}
        self.wording = wording

    def key(self, draft: Drafted) -> str:
        server = [self.config.base_url, self.config.model]
        return content_id(server, self._messages(draft), *self.wording.identity)

    def annotate(self, drafts: Sequence[Drafted]) -> Iterator[list[tuple[int, Annotation]]]:
        for replies in self.endpoint.ask([self.ask(draft) for draft in drafts]):
            yield [(position, self._annotation(drafts[position], reply)) for position, reply in replies]

    def ask(self, draft: Drafted) -> Ask:
        """The call for one draft."""
        options: dict[str, Any] = {}
        if self.config.temperature is not None:
            options["temperature"] = self.config.temperature
        if self.config.response_format == "json_object":
            options["response_format"] = {"type": "json_object"}
        elif self.config.response_format == "json_schema":
            written = {"name": "annotation", "strict": True, "schema": schema(self.wording)}
            options["response_format"] = {"type": "json_schema", "json_schema": written}
        return Ask(self._messages(draft), self.config.max_new_tokens, options)

    def _messages(self, draft: Drafted) -> list[dict[str, str]]:
        content: dict[str, Any] = {"instruction": draft.prompt, "response": draft.response}
        told = instruction(self.wording)
        if draft.system or draft.history:
            content = {"conversation_before": messages(draft.history, draft.system), **content}
            told = f"{told}\n{IN_CONVERSATION}"
        if (problem := self.problems.get(draft.id)) is not None:
            assert self.task is not None
            content["correct_answer"] = self.task.solution(problem)
        # As JSON, so that nothing in a response can pass for a part of the request.
        asked = json.dumps(content, ensure_ascii=False)
        return [{"role": "system", "content": told}, {"role": "user", "content": asked}]

    def _annotation(self, draft: Drafted, reply: Reply) -> Annotation:
        feedback, refinement, reason = self._read(draft, reply)
        figures = (reply.prompt_tokens, reply.new_tokens, reply.dollars)
        settings = {name: getattr(self.config, name) for name in ("response_format", "temperature", "max_new_tokens")}
        return Annotation(feedback, refinement, reason, reply.text if reason else "", *figures, settings)

    def _read(self, draft: Drafted, reply: Reply) -> tuple[str, str, str]:
        """Feedback and refinement of a row of D_meta, and why they cannot be used: "" if they can."""
        if reply.fault:
            return "", "", f"no reply: {reply.fault}"
        if reply.finish == "length":
            return "", "", "the reply was cut off at max_new_tokens"
        written = read_written(reply.text, self.wording)
        return self._checked(draft, written) if written else ("", "", "the reply is not the JSON asked for")

    def _checked(self, draft: Drafted, written: Written) -> tuple[str, str, str]:
        verdict = written.verdict
        feedback = f"{written.feedback.strip()}\n{self.wording.line(verdict)}"
        # Where the response is qualified it stands, word for word: a right answer must not be taught to change.
        refinement = draft.response if verdict is Verdict.QUALIFIED else written.refinement.strip()
        if not written.feedback.strip() or not refinement:
            return feedback, refinement, "feedback or refinement is empty"
        if "\0" in feedback + refinement:
            return feedback, refinement, "feedback or refinement holds a NUL character"
        if self.wording.parse(feedback) is not verdict:
            return feedback, refinement, "the feedback holds a verdict line of its own"
        if verdict is Verdict.NOT_QUALIFIED and refinement == draft.response.strip():
            return feedback, refinement, "the refinement repeats a response that is judged not qualified"
        if (problem := self.problems.get(draft.id)) is not None:
            assert self.task is not None
            if self.task.is_correct(problem, draft.response) != (verdict is Verdict.QUALIFIED):
                return feedback, refinement, "the verdict contradicts the gold answer"
            if not self.task.is_correct(problem, refinement):
                return feedback, refinement, "the refinement contradicts the gold answer"
        return feedback, refinement, ""


def instruction(wording: Wording) -> str:
    """What the annotator is told to do: the instruction of `wording`, else INSTRUCTION with its words."""
    given = wording.annotator or INSTRUCTION.format(wording.qualified, wording.not_qualified)
    return f"{given}\n\n{wording.rubric}" if wording.rubric else given


INSTRUCTION = """\
You teach a language model to find and mend its own errors. You are given, as JSON, an instruction, the model's
response, and sometimes the correct answer. Reply with one JSON object of three strings:
"feedback": language feedback on the response, addressed to its author, in a few sentences: what is right; each error,
where it is and why it is one; how to mend it. Work from the instruction alone: never mention that you were given the
correct answer. Do not state the verdict here.
"verdict": "{0}" if the response follows the instruction and is correct, else "{1}".
"refinement": the improved response that follows from the feedback, complete, as the model should have written it, in
the form of the response and, where a correct answer is given, ending as that does. If the verdict is "{0}",
repeat the response."""
IN_CONVERSATION = """\
The instruction ends a conversation: "conversation_before" has the turns before it, and the system prompt if there is
one. The response has to follow the system prompt and fit the turns."""
