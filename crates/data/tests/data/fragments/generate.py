#!/usr/bin/env python3
"""Pieces of templates and what Jinja2, set up as by transformers, renders from them.

    pip install transformers==5.23.0 jinja2==3.1.6
    python generate.py

Every piece is rendered with the variables of CONTEXT. An error is kept as null: that there is one is
what is compared. Left out, as no chat template has them: iterating over None and sorting unequal types
(errors in Python, not here), unary plus, and the filters truncate, center, urlencode and random.
"""
import json
import pathlib

from transformers.utils.chat_template_utils import _compile_jinja_template

CONTEXT = {
    "s": "Hello, World",
    "padded": " \t\x1c x y \n\u00a0",
    "unicode": "straße 日本 É ŉ",
    "empty": "",
    "none": None,
    "yes": True,
    "n": 7,
    "f": 2.5,
    "big": 1e22,
    "small": 1e-7,
    "whole": 3.0,
    "list": ["b", "a", "C", "a"],
    "numbers": [3, 1, 2.5, 10],
    "dict": {"b": 1, "a": [1, "x"], "items": "own", "C": None},
    "people": [
        {"name": "Ann", "age": 30, "tags": ["x"]},
        {"name": "bob", "age": 5, "tags": []},
        {"name": "Cy", "tags": ["y", "z"]},
    ],
    "quotes": "it's \"quoted\" \\ \n\t\u200b\u00e9\x7f",
    "lines": "one\ntwo\r\nthree\n\nfive\x0bsix\u2028seven",
}

FRAGMENTS = r"""
{{ none }}|{{ yes }}|{{ n }}|{{ f }}|{{ big }}|{{ small }}|{{ whole }}|{{ missing }}
{{ list }}|{{ dict }}|{{ people[0] }}|{{ [] }}|{{ {} }}|{{ (1, 'a') }}|{{ (1,) }}|{{ [none, true, 1.0] }}
{{ [quotes] }}
{{ s ~ n ~ none ~ f }}|{{ s ~ [1, 'a'] }}
{{ none|string }}|{{ f|string }}|{{ list|string }}|{{ missing|string }}
{{ dict|tojson }}|{{ quotes|tojson }}|{{ unicode|tojson(ensure_ascii=True) }}
{{ dict|tojson(indent=2) }}
{{ people|tojson(indent=4, sort_keys=True) }}
{{ dict|tojson(separators=(',', ':')) }}|{{ [1,2]|tojson(indent=none) }}
{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}
{{ missing|tojson }}
{{ padded|trim }}|{{ padded.strip() }}|{{ padded.lstrip() }}|{{ padded.rstrip() }}
{{ none|trim }}|{{ n|trim }}|{{ missing|trim }}|{{ 'xxaxx'|trim('x') }}
{{ 'xyaxy'.strip('xy') }}|{{ 'xyaxy'.lstrip('yx') }}|{{ 'xyaxy'.rstrip('x') }}
{{ s.split(', ') }}|{{ s.split(',')[-1] }}|{{ ' a  b '.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a b  c d'.split(none, 2) }}
{{ 'a,b,c'.rsplit(',', 1) }}|{{ ' a  b c '.rsplit(none, 1) }}|{{ 'a,b,c'.rsplit(',') }}|{{ ''.split() }}|{{ ''.split(',') }}
{{ 'a,b,c'.split(',', maxsplit=1) }}|{{ 'a  b'.split(' ') }}
{{ 'a=b=c'.partition('=') }}|{{ 'a=b=c'.rpartition('=') }}|{{ 'abc'.partition('=') }}|{{ 'abc'.rpartition('=') }}
{{ 'a=b=c'.partition('=')[2] }}
{{ 'prefix-x'.removeprefix('prefix-') }}|{{ 'x.suffix'.removesuffix('.suffix') }}|{{ 'x'.removeprefix('y') }}
{{ s.startswith('Hell') }}|{{ s.endswith(('x', 'World')) }}|{{ s.find('W') }}|{{ s.rfind('zz') }}|{{ unicode.find('日') }}
{{ s.index('W') }}|{{ unicode.rindex('É') }}
{{ s.index('zz') }}
{{ s.upper() }}|{{ s.lower() }}|{{ s.title() }}|{{ s.capitalize() }}|{{ s.swapcase() }}|{{ "they're here".title() }}
{{ unicode.upper() }}|{{ unicode|upper }}|{{ unicode|lower }}
{{ s|title }}|{{ s|capitalize }}|{{ "they're bill's-friends"|title }}
{{ s.replace('l', 'L') }}|{{ s.replace('l', 'L', 1) }}|{{ s|replace('l', 'L') }}|{{ s|replace('l', 'L', 2) }}
{{ s.count('l') }}|{{ list.count('a') }}|{{ list.index('C') }}
{{ list.index('zz') }}
{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}|{{ 'a'.ljust(3, '.') }}|{{ 'a'.rjust(3) }}|{{ 'ab'.center(5, '*') }}|{{ 'abc'.center(6, '*') }}
{{ '12'.isdigit() }}|{{ ''.isdigit() }}|{{ 'ab1'.isalnum() }}|{{ 'ab'.isalpha() }}|{{ ' \t'.isspace() }}|{{ 'a_1'.isidentifier() }}
{{ 'Ab'.isupper() }}|{{ 'ab1'.islower() }}|{{ 'é'.isascii() }}
{{ lines.splitlines() }}
{{ lines.splitlines(true) }}
{{ ', '.join(list) }}|{{ list|join(', ') }}|{{ numbers|join('-') }}|{{ people|join(',', attribute='name') }}|{{ [none, true, 1.0]|join('/') }}
{{ ', '.join(numbers) }}
{{ '%s and %s' % ('a', n) }}|{{ '%d%%' % n }}|{{ '%.2f' % f }}|{{ '%5s|%-5s|' % ('a', 'b') }}|{{ '%s' % list }}|{{ '%05d' % n }}
{{ '%s' % s|upper }}|{{ 'a%s' % 'b' ~ 'c' }}|{{ '%(x)s' % {'x': 1} }}|{{ "%s" % none }}
{{ '%s-%s'|format(s, n) }}|{{ '{} {}'.format(s, n) }}|{{ '{0}{1}{0}'.format('a', 'b') }}|{{ '{x}'.format(x=n) }}
{{ 'a' 'b' "c" }}|{{ 'a\tb\\n\x41\u00e9\'' }}|{{ "\d\/" }}
{{ list is sequence }}|{{ s is sequence }}|{{ dict is sequence }}|{{ n is sequence }}|{{ none is sequence }}|{{ list[1:] is sequence }}
{{ list is iterable }}|{{ s is iterable }}|{{ dict is iterable }}|{{ n is iterable }}|{{ none is iterable }}
{{ list is mapping }}|{{ dict is mapping }}|{{ s is string }}|{{ n is string }}|{{ missing is string }}
{{ n is number }}|{{ f is number }}|{{ yes is number }}|{{ yes is integer }}|{{ n is integer }}|{{ f is float }}|{{ yes is boolean }}
{{ none is none }}|{{ missing is none }}|{{ missing is defined }}|{{ none is defined }}|{{ missing is undefined }}|{{ yes is true }}|{{ n is true }}
{{ n is odd }}|{{ n is divisibleby(7) }}|{{ n is eq(7) }}|{{ n is equalto 7 }}|{{ 'a' is in list }}|{{ n is lt(8) }}|{{ n is not even }}
{{ 'a' in list }}|{{ 'ell' in s }}|{{ 'b' in dict }}|{{ 'z' not in dict }}|{{ 'a' in missing }}|{{ none in [none] }}
{{ missing == none }}|{{ missing == missing2 }}|{{ not missing }}|{{ 1 == 1.0 }}|{{ 1 == true }}|{{ '1' == 1 }}|{{ [1] == [1] }}
{{ missing|length }}|{{ list|length }}|{{ s|length }}|{{ dict|length }}|{{ unicode|length }}|{{ list[1:]|length }}
{{ none|length }}
{{ missing.attr }}
{{ missing['x'] }}
{{ missing + 'x' }}
{{ none + 'x' }}
{{ 'x' + 1 }}
{{ none.attr }}|{{ s.attr }}|{{ s['attr'] }}|{{ n.attr }}|{{ dict.zz }}|{{ dict['zz'] }}|{{ list[9] }}|{{ list.zz }}
{{ dict.b }}|{{ dict['a'][1] }}|{{ people[0].name }}|{{ people[-1]['name'] }}|{{ s[0] }}|{{ s[-1] }}|{{ s[1:4] }}|{{ s[::-1] }}|{{ unicode[4:7] }}
{{ list[1:] }}|{{ list[:-1] }}|{{ list[::-1] }}|{{ list[1:][0] }}|{{ list[-2:] }}|{{ list[::2] }}|{{ list[10:] }}
{{ dict.items()|list }}|{{ dict.keys()|list }}|{{ dict.values()|list }}|{{ dict.get('b') }}|{{ dict.get('zz', 'd') }}|{{ dict.get('zz') }}
{% for k, v in dict.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in dict|items %}{{ k }}={{ v }};{% endfor %}{% for k in dict %}{{ k }}{% endfor %}
{{ dict|dictsort }}|{{ list|sort }}|{{ list|sort(reverse=true) }}|{{ list|sort(case_sensitive=true) }}|{{ numbers|sort }}
{{ list|unique|list }}|{{ list|reverse|list }}|{{ s|reverse }}|{{ list|first }}|{{ list|last }}|{{ numbers|max }}|{{ numbers|min }}|{{ numbers|sum }}
{{ people|map(attribute='name')|list }}|{{ people|map(attribute='age', default=0)|list }}|{{ list|map('upper')|join }}
{{ people|selectattr('age', 'defined')|map(attribute='name')|join(',') }}|{{ people|selectattr('name', 'equalto', 'bob')|list|length }}
{{ people|rejectattr('age', 'defined')|map(attribute='name')|list }}|{{ numbers|select('>', 2)|list }}|{{ numbers|reject('eq', 1)|list }}
{{ people|selectattr('tags')|map(attribute='name')|list }}
{{ missing|default('d') }}|{{ none|default('d') }}|{{ empty|default('d', true) }}|{{ none|d('x', boolean=true) }}|{{ missing|default(default_value='z') }}|{{ missing|default }}
{{ '3'|int }}|{{ 'x'|int }}|{{ 'x'|int(5) }}|{{ 3.9|int }}|{{ '2.5'|float }}|{{ f|round }}|{{ 2.567|round(2) }}|{{ 7|abs }}|{{ -7|abs }}|{{ 2.5|round(0, 'floor') }}
{{ 7 // 2 }}|{{ 7 / 2 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 2 ** 3 }}|{{ 6 / 2 }}|{{ 1 + 2.0 }}|{{ 'ab' * 2 }}|{{ [1] * 2 }}|{{ [1] + [2] }}
{{ 'a' if yes }}|{{ 'a' if none }}|{{ 'a' if none else 'b' }}|{{ none or 'x' }}|{{ 'y' and 'x' }}|{{ '' or missing or 0 }}|{{ not none }}
{{ 1 < 2 < 3 }}|{{ 3 > 2 > 2 }}|{{ 'a' < 'b' }}
{{ s|indent(2) }}|{{ 'a\nb\n\nc'|indent(2) }}|{{ 'a\nb\n\nc'|indent(2, true, true) }}|{{ 'a\nb'|indent(width=3, first=true) }}
{{ 'a b c'|wordcount }}
{{ range(3)|list }}|{{ range(1, 7, 2)|list }}|{{ range(3, 0, -1)|list }}
{% set ns = namespace(x=1, y='a') %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}
{% set x = 1 %}{% for i in range(2) %}{% set x = i + 5 %}{{ x }}{% endfor %}{{ x }}
{% set x %}a{{ n }}b{% endset %}{{ x }}|{{ x|upper }}|{{ x is string }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}|{% set t = 1, 2 %}{{ t }}
{% for i in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}
{% for i in list if i != 'a' %}{{ loop.index }}{{ i }}{% else %}none{% endfor %}|{% for i in [] %}x{% else %}none{% endfor %}
{% for i in list %}{% if loop.index == 2 %}{% continue %}{% endif %}{% if loop.index == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in missing %}x{% endfor %}ok
{% for c in 'abc' %}{{ c }},{% endfor %}
{% macro m(a, b='d', c=none) %}[{{ a }}{{ b }}{{ c }}{{ caller is defined }}]{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(b=3, a=4) }}{{ m() }}
{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}{% set y = m(2) %}{{ y is string }}
{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}in{% endcall %}
{% if s is defined and s|length > 3 and s[0] == 'H' %}yes{% elif none %}no{% else %}else{% endif %}
{% filter upper %}abc{{ s }}{% endfilter %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% raw %}{{ x }}{% if %}{% endraw %}|{{ '{{' }}|{{ '%}' }}
{{ raise_exception('no') }}
{{ missing() }}
{{ s.nothing() }}
{{ list.append('x') }}
{{ dict.update({'x': 1}) }}
{{ list|batch(2)|list }}|{{ list|slice(2)|list }}
{{ {'a': 1, **{'b': 2}} }}
{{ {'a': 1}.a }}
{{ [1, 2,] }}
{{ {'a': 1,} }}
{{ 'a '.split(none, 1) }}|{{ ' a b c '.split(none, 1) }}|{{ ' 42 '|int }}|{{ '1f'|int(0, 16) }}|{{ none|int }}|{{ 'x'|float }}|{{ true|int }}
{{ s|length - 1 }}|{{ (list|length) * 2 }}|{{ -n }}|{{ n - -1 }}
{{ 1_000 }}|{{ 0x1f }}|{{ 1e3 }}|{{ 1.50 }}
{{ "a" if n > 5 else "b" if n > 3 else "c" }}
{{ list|map('replace', 'a', 'x')|list }}|{{ ['a ', ' b']|map('trim')|list }}
{{ (s, n)|first }}|{{ [[1, 2], [3]]|sum(start=[]) }}
{{ true }}{{ True }}{{ false }}{{ False }}{{ none }}{{ None }}
{{ s is callable }}|{{ range is callable }}|{{ raise_exception is callable }}
{{ strftime_now is defined }}|{{ tools is defined }}
{{ none is sameas none }}|{{ yes is sameas true }}
{{ 'abc'|list }}|{{ s|list|length }}
{{ '<a>&'|escape }}|{{ '<a>'|safe }}|{{ '<a>'|e }}
{{ 9007199254740993 }}|{{ 12345678901234567890123 }}
{{ lines|length }}
{{ s.__class__ }}
{{ ['a', 'b']|last|upper ~ 'z' }}
{{ people|map(attribute='tags')|map('length')|list }}|{{ people|map(attribute='tags.0')|list }}
{{ '<b>x</b> y'|striptags }}
""".strip("\n").split("\n")

# What spans several lines: whitespace control.
FRAGMENTS += [
    "  {% if true %}\n  a\n  {% endif %}\n  b\n",
    "  {%- if true -%}\n  a\n  {%- endif -%}\n  b\n\n",
    "a  {%+ if true +%}\n  b{% endif %}\n\nc",
    "x {# comment #}\ny\n  {# another -#}\n  z {#- third -#} !",
    "{% for i in range(2) %}\n  {{ i }}\n{% endfor %}\n",
    "{{ 'a' }}\n{{ 'b' }}\n",
    "\t{% set x = 1 %}\n\t{{ x }}\n{%- if x %}\n\n text\n{%- endif %}\n\n\n",
    "{% if true %} {% if true %} a {% endif %} {% endif %}\n",
    "a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc\rd\r\n",
    "{%- raw -%}\n  {{ x }}\n{%- endraw -%}\n y",
    "{%\n  if true\n%}a{%\nendif\n%}\n{{\n  'b'\n}}",
    "{{- 'a' -}}  \n b {{- 'c' }}  {{ 'd' -}}\n\n e",
    "  {% for i in [1,2] %}{{ i }}\n  {%- if not loop.last %}, {% endif %}\n{% endfor %}",
    "{% generation %}\n  x{% set y = 1 %}\n{% endgeneration %}\n{{ y is defined }}",
    "a\n  {%- generation %}  b  {% endgeneration -%}  \nc",
]


def main():
    cases = []
    for fragment in FRAGMENTS:
        try:
            # As `apply_chat_template` calls it: these two are always there.
            expected = _compile_jinja_template(fragment).render(**CONTEXT, messages=[], tools=None, add_generation_prompt=False)
        except Exception:
            expected = None
        cases.append({"template": fragment, "expected": expected})
    # ASCII only, so that no editor touches the invisible characters.
    text = json.dumps({"context": CONTEXT, "cases": cases}, indent=1)
    pathlib.Path(__file__).with_name("fragments.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
