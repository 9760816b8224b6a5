/** Regular expressions of JSON schemas (ECMA-262) as GBNF of the JSON text that matches. */
import { type AST, RegExpParser } from "@eslint-community/regexpp"
import { classCharacter, type Gbnf, repeated } from "./Gbnf.ts"
import { char } from "./json.ts"

/** Code points, as ranges in order that do not overlap. */
type CodePoints = ReadonlyArray<readonly [from: number, to: number]>

const LAST = 0x10ffff

/** A pattern that is right, and says what no grammar can. */
class Unsupported extends Error {}

/**
 * A rule for the texts with quotes that `pattern` is found in, as JSON; undefined where the pattern needs to look
 * ahead or back, which no grammar can.
 *
 * @throws {SyntaxError} when it is no regular expression
 */
export const patternRule = (grammar: Gbnf, name: string, pattern: string): string | undefined => {
  const parsed = new RegExpParser().parsePattern(pattern, undefined, undefined, { unicode: true })
  const bodies = parsed.alternatives.map((alternative) => anchored(grammar, name, alternative))
  try {
    const texts = bodies.map((body) => body())
    return grammar.add(name, `"\\"" (${texts.join(" | ")}) "\\""`)
  } catch (error) {
    if (error instanceof Unsupported) return undefined
    throw error
  }
}

/** A pattern that is not tied to the text's start or end may have anything there. */
const anchored =
  (grammar: Gbnf, name: string, { elements }: AST.Alternative) =>
  () => {
    const isStart = (element?: AST.Element) =>
      element?.type === "Assertion" && element.kind === "start"
    const isEnd = (element?: AST.Element) => element?.type === "Assertion" && element.kind === "end"
    const [starts, ends] = [isStart(elements[0]), isEnd(elements.at(-1))]
    const inner = elements.slice(starts ? 1 : 0, ends ? -1 : undefined)
    const anything = `${char(grammar)}*`
    return [
      ...(starts ? [] : [anything]),
      ...inner.map((element) => elementText(grammar, name, element)),
      ...(ends ? [] : [anything]),
      ...(inner.length === 0 && starts && ends ? ['""'] : []),
    ].join(" ")
  }

const alternativesText = (
  grammar: Gbnf,
  name: string,
  alternatives: ReadonlyArray<AST.Alternative>,
): string =>
  alternatives
    .map(({ elements }) =>
      elements.length === 0
        ? '""'
        : elements.map((element) => elementText(grammar, name, element)).join(" "),
    )
    .join(" | ")

const elementText = (grammar: Gbnf, name: string, element: AST.Element): string => {
  switch (element.type) {
    case "Group":
    case "CapturingGroup":
      return `(${alternativesText(grammar, name, element.alternatives)})`
    case "Quantifier": {
      const item = elementText(grammar, name, element.element as AST.Element)
      return repeated(grammar.add(`${name}-part`, item), element.min, element.max)
    }
    case "Character":
    case "CharacterSet":
    case "CharacterClass":
      return jsonCharacter(codePointsOf(element))
    default:
      throw new Unsupported(element.raw)
  }
}

const codePointsOf = (
  element: AST.Character | AST.CharacterSet | AST.CharacterClass | AST.CharacterClassRange,
): CodePoints => {
  switch (element.type) {
    case "Character":
      return [[element.value, element.value]]
    case "CharacterClassRange":
      return [[element.min.value, element.max.value]]
    case "CharacterSet":
      return setOf(element)
    case "CharacterClass": {
      const elements = element.elements as ReadonlyArray<Parameters<typeof codePointsOf>[0]>
      const points = united(elements.flatMap(codePointsOf))
      return element.negate ? complement(points) : points
    }
  }
}

const setOf = (set: AST.CharacterSet): CodePoints => {
  switch (set.kind) {
    case "any":
      return complement([
        [0x0a, 0x0a],
        [0x0d, 0x0d],
        [0x2028, 0x2029],
      ])
    case "digit":
      return negatedIf(set.negate, [[0x30, 0x39]])
    case "word":
      return negatedIf(set.negate, [
        [0x30, 0x39],
        [0x41, 0x5a],
        [0x5f, 0x5f],
        [0x61, 0x7a],
      ])
    case "space":
      return negatedIf(set.negate, [
        [0x09, 0x0d],
        [0x20, 0x20],
        [0xa0, 0xa0],
        [0x1680, 0x1680],
        [0x2000, 0x200a],
        [0x2028, 0x2029],
        [0x202f, 0x202f],
        [0x205f, 0x205f],
        [0x3000, 0x3000],
        [0xfeff, 0xfeff],
      ])
    default:
      throw new Unsupported(set.raw)
  }
}

const negatedIf = (isNegated: boolean, points: CodePoints): CodePoints =>
  isNegated ? complement(points) : points

const united = (points: CodePoints): CodePoints => {
  const result: [number, number][] = []
  for (const [from, to] of points.toSorted(([a], [b]) => a - b)) {
    const last = result.at(-1)
    if (last !== undefined && from <= last[1] + 1) last[1] = Math.max(last[1], to)
    else result.push([from, to])
  }
  return result
}

const complement = (points: CodePoints): CodePoints => {
  const gaps: [number, number][] = []
  let next = 0
  for (const [from, to] of points) {
    if (from > next) gaps.push([next, from - 1])
    next = to + 1
  }
  if (next <= LAST) gaps.push([next, LAST])
  return gaps
}

/** Characters that JSON writes with a backslash, and how. */
const jsonEscapes: ReadonlyMap<number, string> = new Map([
  [0x22, '"\\\\\\""'],
  [0x5c, '"\\\\\\\\"'],
  [0x08, '"\\\\b"'],
  [0x0c, '"\\\\f"'],
  [0x0a, '"\\\\n"'],
  [0x0d, '"\\\\r"'],
  [0x09, '"\\\\t"'],
])

/** One of these characters within a JSON text; control characters without a short escape are left out. */
const jsonCharacter = (points: CodePoints): string => {
  const has = (code: number) => points.some(([from, to]) => from <= code && code <= to)
  const plain = without(points, [
    [0, 0x1f],
    [0x22, 0x22],
    [0x5c, 0x5c],
    [0x7f, 0x7f],
    [0xd800, 0xdfff],
  ])
  const ranges = plain.map(([from, to]) =>
    from === to ? classCharacter(from) : `${classCharacter(from)}-${classCharacter(to)}`,
  )
  const alternatives = [
    ...(ranges.length === 0 ? [] : [`[${ranges.join("")}]`]),
    ...[...jsonEscapes].filter(([code]) => has(code)).map(([, text]) => text),
  ]
  if (alternatives.length === 0) throw new Unsupported("control characters")
  return alternatives.length === 1 ? alternatives[0]! : `(${alternatives.join(" | ")})`
}

const without = (points: CodePoints, taken: CodePoints): CodePoints =>
  complement(united([...complement(points), ...taken]))
