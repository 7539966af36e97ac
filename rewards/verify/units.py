"""Units: one table with dimension and factor, and how they are written."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from .tree import names


class Unit(NamedTuple):
    """dimension: sorted (base, exponent) pairs. factor: how many base units one of it is. A unit that the table does
    not know ("apples") is its own dimension."""

    dimension: tuple[tuple[str, int], ...]
    factor: int | Fraction


def _table() -> dict[str, Unit]:
    table: dict[str, Unit] = {}

    def put(spellings: str, dimension: str, factor: int | Fraction | str) -> None:
        parts: dict[str, int] = {}
        for part in dimension.split():
            base, _, exponent = part.partition("^")
            parts[base] = parts.get(base, 0) + int(exponent or 1)
        unit = Unit(tuple(sorted(parts.items())), Fraction(factor))
        for name in spellings.split():
            table[name] = unit

    put("m meter meters metre metres 米", "m", 1)
    put("km kilometer kilometers kilometre kilometres 千米 公里", "m", 1000)
    put("cm centimeter centimeters centimetre centimetres 厘米", "m", "1/100")
    put("dm decimeter decimeters 分米", "m", "1/10")
    put("mm millimeter millimeters millimetre millimetres 毫米", "m", "1/1000")
    put("μm micrometer micrometers micron microns", "m", "1/1000000")
    put("nm nanometer nanometers", "m", "1/1000000000")
    put("in inch inches", "m", "127/5000")
    put("ft foot feet", "m", "381/1250")
    put("yd yard yards", "m", "1143/1250")
    put("mi mile miles", "m", "201168/125")
    put("g gram grams 克", "g", 1)
    put("kg kilogram kilograms 千克 公斤", "g", 1000)
    put("mg milligram milligrams", "g", "1/1000")
    put("lb lbs pound pounds", "lb", 1)
    put("oz ounce ounces", "lb", "1/16")
    put("ton tons tonne tonnes 吨", "ton", 1)
    put("s sec secs second seconds 秒", "s", 1)
    put("ms millisecond milliseconds", "s", "1/1000")
    put("min mins minute minutes 分钟", "s", 60)
    put("h hr hrs hour hours 小时", "s", 3600)
    put("day days 天", "s", 86400)
    put("week weeks 周", "s", 604800)
    put("month months 月", "month", 1)
    put("yr yrs year years 年 岁", "month", 12)
    put("l L liter liters litre litres 升", "m^3", "1/1000")
    put("ml mL milliliter milliliters millilitre millilitres 毫升", "m^3", "1/1000000")
    put("gal gallon gallons", "gallon", 1)
    put("qt quart quarts", "gallon", "1/4")
    put("pint pints", "gallon", "1/8")
    put("cup cups", "gallon", "1/16")
    put("$ dollar dollars usd USD 美元", "usd", 1)
    put("cent cents ¢", "usd", "1/100")
    put("€ eur euro euros EUR", "eur", 1)
    put("£ gbp GBP", "gbp", 1)
    put("¥ yen jpy JPY", "yen", 1)
    put("₹ inr INR rupee rupees rs Rs", "inr", 1)
    put("元 yuan rmb RMB", "yuan", 1)
    put("mph", "m s^-1", "1397/3125")
    put("kph kmh", "m s^-1", "5/18")
    put("N newton newtons", "g m s^-2", 1000)
    put("J joule joules", "g m^2 s^-2", 1000)
    put("kJ", "g m^2 s^-2", 1000000)
    put("W watt watts", "g m^2 s^-3", 1000)
    put("kW", "g m^2 s^-3", 1000000)
    put("Hz hertz", "s^-1", 1)
    put("Pa", "g m^-1 s^-2", 1000)
    put("kPa", "g m^-1 s^-2", 1000000)
    put("V volt volts", "volt", 1)
    put("A amp amps ampere amperes", "ampere", 1)
    put("ohm ohms", "ohm", 1)
    put("K kelvin", "kelvin", 1)
    put("mol mole moles", "mol", 1)
    put("unit units 个单位 单位", "unit", 1)
    put("rad radian radians", "", 1)
    put("acre acres", "acre", 1)
    put("hectare hectares ha", "m^2", 10000)
    return table


UNITS = _table()
# Letters that are units only after a blank or set upright ("5 m", 5\,\mathrm{m}); in "5m" they are symbols.
LETTER_UNITS = frozenset("mgshlLNJWVAK")
# A word that changes what the number before it says is no unit: "5 million", "5 or so", "5 less than x".
SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "万": 10**4, "亿": 10**8,
}  # fmt: skip
NOT_UNITS = names(
    "not no nor or and but maybe perhaps possibly probably likely approximately about around roughly "
    "nearly almost except if unless than then less more least most fewer greater minus plus times over "
    "under above below through to from of half quarter third percent percentage pct is are was were isn't "
    "aren't wrong right incorrect correct where when with without for all any some none each every either "
    "neither both between hence thus so because since mod modulo remainder divided multiplied squared "
    "cubed square cubic hundred thousand million billion trillion dozen am pm true false yes undefined "
    "unknown infinite infinity solution solutions sqrt sq cu 或 不 或者 和 与 以上 以下 左右 多 不是 非 以及 还是"
)


def multiply(parts: list[tuple[Unit, int]]) -> Unit:
    """The product of units with exponents."""
    dimension: dict[str, int] = {}
    factor: int | Fraction = 1
    for unit, exponent in parts:
        for base, power in unit.dimension:
            dimension[base] = dimension.get(base, 0) + power * exponent
        factor *= Fraction(unit.factor) ** exponent
    return Unit(tuple(sorted((b, p) for b, p in dimension.items() if p)), factor)


def named(word: str) -> Unit:
    """The unit that a word names; a noun the table does not know is a dimension of its own, without its plural s."""
    unit = UNITS.get(word) or UNITS.get(word.lower())
    if unit is None:
        noun = word.lower()
        unit = Unit((((noun[:-1] if noun.endswith("s") else noun), 1),), 1)
    return unit
