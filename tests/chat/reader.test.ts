/** Whatever a model writes, in whatever pieces: its reader reads it, and the same. */
import { expect, test } from "bun:test"
import { ChatTemplate, type OutputDelta, OutputReader, type ReasoningFormat } from "@ggml-rpc/chat"
import fc from "fast-check"
import { families, familyOf, weather } from "../../packages/chat/src/output/families.testHelper.ts"

/** Each family's own text in pieces, so that whole, broken and misplaced calls come up. */
const fragments = families.flatMap(([, , text]) => text.split(/(?<=[>\]}\n])|(?=[<[{])/))
const marks = [
  "<think>",
  "</think>",
  "[THINK]",
  "<|START_RESPONSE|>",
  '{"name": ',
  "<",
  "\\",
  '"',
  " \n",
]
const text = fc
  .array(fc.oneof(fc.constantFrom(...fragments, ...marks), fc.string({ unit: "grapheme" })))
  .map((parts) => parts.join(""))

const templates = families.map(
  ([, of]) => new ChatTemplate({ source: familyOf(...of, "<think>", "</think>") }),
)

interface Reading {
  readonly template: ChatTemplate
  readonly text: string
  readonly cuts: ReadonlyArray<number>
  readonly hasTools: boolean
  readonly reasoningFormat: ReasoningFormat
}

const reading = fc.record({
  template: fc.constantFrom(...templates),
  text,
  cuts: fc.array(fc.nat(400), { maxLength: 12 }),
  hasTools: fc.boolean(),
  reasoningFormat: fc.constantFrom<ReasoningFormat>("none", "auto"),
})

/** Texts by what they are of, and the names of the calls, whose ids are chance. */
const read = ({ template, text, cuts, hasTools, reasoningFormat }: Reading): unknown => {
  const tools = hasTools ? [weather] : []
  const reader = new OutputReader(template, { prompt: "", tools, reasoningFormat })
  const deltas: OutputDelta[] = []
  const edges = [0, ...cuts.filter((cut) => cut < text.length).sort((a, b) => a - b), text.length]
  for (let index = 1; index < edges.length; index++) {
    deltas.push(...reader.push(text.slice(edges[index - 1], edges[index])))
  }
  deltas.push(...reader.finish())
  const parts: Record<string, string> = {}
  for (const delta of deltas) {
    const key = "index" in delta ? `${delta.type} ${delta.index}` : delta.type
    parts[key] = (parts[key] ?? "") + ("text" in delta ? delta.text : delta.name)
  }
  return parts
}

test("pieces do not matter", () => {
  fc.assert(
    fc.property(reading, (given) => {
      expect(read(given)).toEqual(read({ ...given, cuts: [] }))
    }),
    { numRuns: 2000 },
  )
})

test("without tools, and with thoughts left where they are, nothing is lost", () => {
  const channels = templates.filter((template) => template.formatFor().tools.shape !== "harmony")
  fc.assert(
    fc.property(reading, fc.constantFrom(...channels), (given, template) => {
      const parts = read({ ...given, template, hasTools: false, reasoningFormat: "none" })
      const { answer } = template.formatFor()
      const shown = (answer ?? []).reduce((kept, mark) => kept.replaceAll(mark, ""), given.text)
      expect(parts).toEqual(shown === "" ? {} : { content: shown })
    }),
    { numRuns: 1000 },
  )
})
