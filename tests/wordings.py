"""Wordings in several scripts: with case and without, spaces or none, from left or right, a word within the other."""

from __future__ import annotations

from selfevo.method.prompts import ENGLISH, Wording

JAPANESE = Wording(
    critique="この回答を確認し、誤りをすべて指摘してから、判定を書いてください。",
    refine="改善した回答を書いてください。",
    verdict="判定",
    qualified="合格",
    not_qualified="不合格",
)
GERMAN = Wording(
    critique="Prüfe diese Antwort: Nenne jeden Fehler und gib dann dein Urteil ab.",
    refine="Schreibe die verbesserte Antwort.",
    verdict="Urteil",
    qualified="qualifiziert",
    not_qualified="nicht qualifiziert",
)
ARABIC = Wording(
    critique="راجع هذه الإجابة: اذكر كل خطأ، ثم أعطِ حكمك.",
    refine="اكتب الإجابة المحسّنة.",
    verdict="الحكم",
    qualified="مقبول",
    not_qualified="غير مقبول",
)
KOREAN = Wording(verdict="판정", qualified="합격", not_qualified="불합격")
FRENCH = Wording(verdict="Décision", qualified="qualifiée", not_qualified="non qualifiée")
HINDI = Wording(verdict="निर्णय", qualified="योग्य", not_qualified="योग्य नहीं")
INVERTED = Wording(verdict="Verdict", qualified="not bad", not_qualified="bad")  # no is within yes

WORDINGS = {
    "English": ENGLISH,
    "Japanese": JAPANESE,
    "German": GERMAN,
    "Arabic": ARABIC,
    "Korean": KOREAN,
    "French": FRENCH,
    "Hindi": HINDI,
    "inverted": INVERTED,
}
