# ruff: noqa: E501 - long rows of short texts
"""Answers made to hang, crash or fool a verifier. None of them says 42."""

from __future__ import annotations

GOLD = "42"


def hostile_answers() -> list[str]:
    """About 200 texts, the same on every call."""
    return [text for family in (_towers(), _nesting(), _growth(), _length(), _signs(), _text()) for text in family]


def _towers() -> list[str]:
    return [
        "44**19**35", "9^{9^{9^{9}}}", "9^9^9^9", "2^{2^{2^{2^{2^{2}}}}}", "10^{10^{10}}", "10^{10^{10}}!",
        "(10^{10})!", "(((10!)!)!)!", "100000!", "10^9!", "3^{4^{5^{6}}}", "-9^{9^{9}}", "9^{-9^{9}}",
        "(9^{9^9})^{9^9}", "0.5^{10^{10}}", "(1/3)^{10^9}", "1.0000001^{10^{12}}", "\\sqrt{10^{10^{10}}}",
        "\\sqrt[10^{10}]{2}", "\\sqrt[3]{9^{9^9}}", "2^{1/10^{10}}", "e^{e^{e^{e^{e}}}}", "e^{10^{10^{10}}}",
        "i^{i^{i^{i}}}", "(2^{1000000})^{1000000}", "2^{99999999999}", "\\log_2 2^{10^{10}}", "\\ln 10^{10^{10}}",
        "\\binom{10^9}{5\\cdot10^8}", "\\binom{10^{100}}{10^{99}}", "\\binom{100000}{50000}", "\\binom{n}{10^9}",
        "\\prod_{k=1}^{10^9}k", "\\sum_{k=1}^{10^{12}}\\frac{1}{k}", "\\sum_{k=1}^{400}\\sum_{j=1}^{400}\\frac{1}{k+j}",
        "\\prod_{k=1}^{400}(x+k)", "\\sum_{k=1}^{400} k^{k^{k}}", "\\sum_{k=1}^{400} k!", "\\prod_{i=1}^{400} i^{i}",
        "\\sum_{a=1}^{400}\\sum_{b=1}^{400}\\sum_{c=1}^{400}abc", "\\sum_{k=-10^9}^{10^9} k", "\\sum_{k=1}^{\\infty}\\frac1{k^2}",
        "\\int_0^{9^{9^9}} x^{9^{9}} dx", "\\int_0^1 \\int_0^1 \\int_0^1 e^{xyz} dx dy dz", "\\lim_{x\\to 0} \\frac{\\sin x}{x}",
        "\\gcd(10^{10^9}, 6)", "\\operatorname{lcm}(9^{9^9}, 8^{8^8})", "\\lfloor 10^{10^{10}} \\rfloor",
        "\\lfloor \\pi^{1000000} \\rfloor", "|9^{9^9}|", "9^{9^9}\\%", "9^{9^9}^\\circ", "9^{9^9} \\text{ cm}",
        "1e999999999", "1e-999999999", "1e308 \\cdot 1e308", "9e999", "0.{}".format("0" * 900 + "1"),
        "10^{1000} \\cdot 10^{1000} \\cdot 10^{1000} \\cdot 10^{1000} \\cdot 10^{1000} \\cdot 10^{1000} \\cdot 10^{1000}",
        "(10^{3000})^{3}", "\\frac{10^{5000}}{10^{5000}+1}", "\\cos(10^{10^{10}})", "\\sin(9^{9^9}\\pi)",
    ]  # fmt: skip


def _nesting() -> list[str]:
    pairs = [
        ("(", ")"),
        ("[", "]"),
        ("{", "}"),
        ("\\{", "\\}"),
        ("|", "|"),
        ("\\left(", "\\right)"),
        ("\\lfloor ", "\\rfloor "),
    ]
    texts = [opening * n + "41" + closing * n for opening, closing in pairs for n in (60, 5000)]
    texts += [opening * 3000 for opening, _ in pairs]
    texts += [closing * 3000 for _, closing in pairs]
    texts += [
        f"{command}{{" * n + "x" + "}" * n
        for command in ("\\sqrt", "\\sin", "\\ln", "\\text", "\\boxed")
        for n in (100, 200, 3000)
    ]
    texts += ["\\frac{1}{" * n + "x" + "}" * n for n in (30, 200, 2000)]
    texts += ["x^{" * n + "2" + "}" * n for n in (30, 200, 2000)]
    texts += ["sin(" * 200 + "x" + ")" * 200, "f(" * 500, "-" * 3000 + "42", "+" * 3000 + "42", "-" * 30 + "(" * 30]
    texts += ["\\sqrt{1+" * 35 + "1" + "}" * 35, "((x+1)^2+" * 30 + "1" + ")^2" * 30, "|x-" * 200 + "1" + "|" * 200]
    texts += ["\\begin{pmatrix}" * n + "1" + "\\end{pmatrix}" * n for n in (20, 200)]
    return texts


def _growth() -> list[str]:
    return [
        "(x+y+z)^{500}", "(a+b+c+d+e+f+g+h)^{20}", "(1+x)^{10000}", "(x+y)^{400}(x-y)^{400}", "(x+1)^{300}(y+1)^{300}",
        "((x+1)^{10}+1)^{10}(x+y+z+w)^{9}", "\\frac{(x+y+z)^{50}}{(x-y+z)^{50}}", "(\\sin x+\\cos y+\\tan z)^{40}",
        "(\\sqrt2+\\sqrt3+\\sqrt5+\\sqrt7+\\sqrt{11}+\\sqrt{13})^{40}", "(1+\\sqrt2)^{5000}", "(1+i)^{100000}",
        "(\\sqrt{2}+\\sqrt[3]{3}+\\sqrt[5]{5}+\\sqrt[7]{7})^{30}", "\\sqrt{1+\\sqrt{2+\\sqrt{3+\\sqrt{4+\\sqrt{5+\\sqrt 6}}}}}",
        "\\cos x\\cos 2x\\cos 4x\\cos 8x\\cos 16x\\cos 32x\\cos 64x\\cos 128x\\cos 256x", "\\tan(a+b+c+d+e+f+g+h)",
        "\\sin^{300} x+\\cos^{300} x", "\\cos(1000000x)", "(e^x+e^{-x})^{300}", "\\sum_{k=1}^{300}\\frac{1}{x+k}",
        "\\sum_{k=1}^{300}\\frac{x^k}{k!}", "\\prod_{k=1}^{60}(x^k+1)", "\\sum_{k=1}^{300}\\sqrt{k}", "\\sum_{k=1}^{300}\\sin k",
        "+".join(f"\\frac{{1}}{{x_{{{k}}}+{k}}}" for k in range(60)), "*".join(f"(x_{{{k}}}+1)" for k in range(100)),
        "+".join(f"\\sqrt{{{10**12 + k}}}" for k in range(80)), "\\sqrt{" + "9" * 300 + "7}", "\\sqrt{" + "1" * 999 + "}",
        "\\ln " + "7" * 120, "\\sqrt{" + str((10**50 + 151) * (10**50 + 447)) + "}", "9" * 999, "0." + "3" * 990,
        "\\frac{" + "1" * 900 + "}{" + "3" * 900 + "}", "\\pm" * 40 + "1", "1" + "\\pm 1" * 60, ",".join("\\pm 1" for _ in range(300)),
        ",".join(str(k) for k in range(3000)), "\\{" + ",".join(str(k) for k in range(300)) + "\\}",
        "\\cup".join(f"({k},{k + 1})" for k in range(150)), ",".join(f"\\sqrt{{{k}}}" for k in range(120)),
        ",".join(f"x<{k}" for k in range(120)), "x" + "<1<x" * 120, "x" + "=x" * 200, "1:" * 200 + "1",
        "\\binom{x+20}{20}\\binom{x+19}{19}", "(x+20)!(y+20)!(z+20)!(w+20)!", "\\frac{(x+20)!}{(x-20)!}", "n!" + "!" * 200,
        "\\log" * 100 + " x", "x^{y^{z^{w^{v^{u}}}}}", "(x^{1/2}+y^{1/3}+z^{1/5})^{30}", "|x|" * 200, "x!" * 100,
    ]  # fmt: skip


def _length() -> list[str]:
    return [
        "4" * 100_000, "x" * 100_000, " " * 100_000, "1+" * 50_000 + "1", "$" * 20_001, "\\" * 20_000, "\\\\ " * 5_000,
        "\\boxed{" * 5_000, "\\boxed{41" + "}" * 5_000 + " or 43", "." * 20_000, "*" * 20_000, "#" * 20_000, "_" * 20_000, "42 43 " * 5_000,
        "the answer is " * 5_000, "answer: " * 5_000 + "41", "not " * 5_000 + "42", "答案是" * 5_000, "所以" * 900 + "41",
        ", " * 10_000, "1," * 10_000, "\n" * 10_000 + "41", "a" * 1_999, "1 " * 999, "\\frac" * 399, "\\," * 999, "{}" * 999,
        "((((" * 499, "1" * 1_999, "0.(" + "3" * 1_500 + ")", "0." + "12" * 900 + "...", "\\text{" + "a " * 900 + "}",
        "\\text{42 }" * 180, ". " * 990, "$ $ " * 490, "\\quad" * 399, "`" * 1_999, "|" * 1_999, "^" * 1_999, "_{" * 900, "'" * 1_999,
        "x" + "'" * 1_500, "1/" * 999, "-" * 1_999, "(" * 45 + ")" * 45, "\\left" * 390, "sin" * 600, "的" * 1_999, "🙂" * 1_999,
        "\u0305" * 1_999, "3\u0305" * 900, "²" * 1_999, "½" * 1_999, "−" * 1_999, "Ω" * 1_999, "\u200b" * 1_999, "1,000" * 390,
    ]  # fmt: skip


def _signs() -> list[str]:
    return [
        "", " ", "\n", "\\", "$", "$$", "{", "}", "^", "_", "=", "==", "=42=", "+", "-", "/", "1/0", "0/0", "0^{-1}", "\\ln 0",
        "\\tan 90^\\circ", "\\frac{42}{0}", "\\frac{}{}", "\\sqrt{}", "\\boxed{}", "()", "[]", "\\{\\}", "\x00", "\ud800",
        "\udfff42", "42\x0043", "NaN", "nan", "inf", "-inf", "None", "null", "__import__('os').system('true')", "exec('x=42')",
        "lambda: 42", "[42 for _ in iter(int, 1)]", "while True: pass", "%s%s%s%n", "{0.__class__}", "\\input{/etc/passwd}",
        "\\write18{true}", "\\def\\x{\\x\\x}\\x", "\\newcommand{\\a}{\\a\\a}\\a", "<answer>42</answer><answer>43</answer>",
        "42;43", "4 2", "42!", "42_", "_42", "^42", "42^", "42 = 43", "42 \\ne 42", "\\neg 42", "~41", "!42", "43\\%", "42i", "42x",
        "0x2A", "0b101010", "4\u03002", "⁴²", "₄₂", "Ⅳ", "四十二三", "٤٣",
    ]  # fmt: skip


def _text() -> list[str]:
    return [
        "42 or 43", "either 42 or 43", "41, 42 or 43", "it is not 42", "42 is not the answer", "I do not know", "42 (but maybe 43)",
        "\\boxed{42} \\boxed{43}", "The answer is 42. No, the answer is 43.", "42, 24", "all integers from 1 to 100",
        "the gold answer", "correct", "True", "the same as the reference", "see above", "x where x is the answer", "1 to 100",
        "42\\text{ or }43", "any of 41, 42, 43", "\\text{either } 42", "~42~ 43", "42±1", "42 \\pm 1", "[41, 43]", "(41, 43)",
        "x<43", "x \\in \\{42, 43\\}", "\\{x : x = 42 \\text{ or } 43\\}", "42 mod 40", "-(-(-42))", "41.99999999999999999999",
        "42.00000000000000000001", "41 + 1 + 1", "6 \\cdot 9", "\\text{forty-two or forty-three}", "答案是42或43", "不是42", "42以上",
    ]  # fmt: skip
