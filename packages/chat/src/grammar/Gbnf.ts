/** A grammar in the making: rules of llama.cpp's GBNF by name. */

/** What llama.cpp takes; beyond it a minimum is refused, and a maximum is none. */
const MAX_REPETITIONS = 2000

export class Gbnf {
  readonly #rules = new Map<string, string>()

  /** Reserves a name like the wished one for a rule that is still to be written. */
  reserve(wished: string): string {
    const base = wished.replace(/[^a-zA-Z0-9-]+/g, "-") || "rule"
    let name = base
    for (let count = 2; this.#rules.has(name); count++) name = `${base}-${count}`
    this.#rules.set(name, "")
    return name
  }

  /** Writes the body of a reserved rule. */
  define(name: string, body: string): string {
    this.#rules.set(name, body)
    return name
  }

  add(wished: string, body: string): string {
    return this.define(this.reserve(wished), body)
  }

  /** A rule of which there is one, whoever asks for it. */
  shared(name: string, body: () => string): string {
    if (!this.#rules.has(name)) {
      this.#rules.set(name, "")
      this.#rules.set(name, body())
    }
    return name
  }

  toString(): string {
    return [...this.#rules].map(([name, body]) => `${name} ::= ${body}\n`).join("")
  }
}

/** A text as GBNF writes it. */
export const literal = (text: string): string =>
  `"${text.replace(/["\\\n\r\t]/g, (character) => escapes[character]!)}"`

const escapes: Readonly<Record<string, string>> = {
  '"': '\\"',
  "\\": "\\\\",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
}

/** `item` so many times; it has to be one symbol or in parentheses. */
export const repeated = (item: string, min: number, max = Number.POSITIVE_INFINITY): string => {
  const least = Math.min(min, MAX_REPETITIONS)
  if (max === 0) return '""'
  if (least === 0 && max === 1) return `${item}?`
  if (max > MAX_REPETITIONS) {
    return least === 0 ? `${item}*` : least === 1 ? `${item}+` : `${item}{${least},}`
  }
  return `${item}{${least},${max}}`
}

/** `item` so many times, with `separator` between. */
export const separated = (
  item: string,
  separator: string,
  min: number,
  max = Number.POSITIVE_INFINITY,
): string => {
  if (max === 0) return '""'
  const more =
    max === 1 ? "" : ` ${repeated(`(${separator} ${item})`, Math.max(0, min - 1), max - 1)}`
  return min === 0 ? `(${item}${more})?` : `${item}${more}`
}

/** Any text that does not have `end` in it, then `end`. Each rule knows how much of `end` has come. */
export const untilText = (grammar: Gbnf, name: string, end: string): string => {
  const characters = [...end]
  const states = characters.map((_, index) => grammar.reserve(`${name}-${index}`))
  states.forEach((state, index) => {
    const known = characters.slice(0, index).join("")
    // Characters after which more than nothing of the end is there.
    const leading = [...new Set(characters)].filter(
      (character) => overlap(known + character, end) > 0,
    )
    const alternatives = leading.map((character) => {
      const length = [...end.slice(0, overlap(known + character, end))].length
      return length === characters.length
        ? literal(character)
        : `${literal(character)} ${states[length]}`
    })
    const others = `[^${leading.map(classCharacter).join("")}] ${states[0]}`
    grammar.define(state, [others, ...alternatives].join(" | "))
  })
  return states[0]!
}

/** Length of the longest beginning of `end` that `text` ends with. */
const overlap = (text: string, end: string): number => {
  for (let length = Math.min(text.length, end.length); length > 0; length--) {
    if (text.endsWith(end.slice(0, length))) return length
  }
  return 0
}

/** A character, or its code point, between the brackets of a GBNF class. */
export const classCharacter = (character: string | number): string => {
  const code = typeof character === "number" ? character : character.codePointAt(0)!
  const isPlain = code >= 0x20 && code < 0x7f && !'[]^\\-"'.includes(String.fromCodePoint(code))
  return isPlain ? String.fromCodePoint(code) : `\\U${code.toString(16).padStart(8, "0")}`
}
