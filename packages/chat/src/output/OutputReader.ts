/** Splits a model's text, as it comes, into thoughts, answer and tool calls. */
import type { Tool } from "../messages.ts"
import type { ChatTemplate } from "../template/ChatTemplate.ts"
import { CallWriter, type OutputDelta } from "./calls.ts"
import type { OutputFormat } from "./format.ts"
import { opensOf, readCalls } from "./readCalls.ts"
import { readHarmony } from "./readHarmony.ts"
import { readRecipients } from "./readRecipients.ts"
import { type Parsing, TextInput } from "./TextInput.ts"
import { Trimmed } from "./Trimmed.ts"

/** As `--reasoning-format`: `none` leaves thoughts in the content as they are; `deepseek` and `auto` split them off. */
export type ReasoningFormat = "none" | "deepseek" | "auto"

export interface OutputReaderOptions {
  /** The prompt that the text continues: it tells whether the model thinks already. */
  readonly prompt: string
  /** Tools that the model knows of; without any, nothing is read as a call. */
  readonly tools?: ReadonlyArray<Tool> | undefined
  /** Default: `auto`. */
  readonly reasoningFormat?: ReasoningFormat | undefined
}

export class OutputReader {
  readonly #input = new TextInput()
  readonly #parsing: Parsing
  #deltas: OutputDelta[] = []

  constructor(template: ChatTemplate, options: OutputReaderOptions) {
    const { prompt, tools = [], reasoningFormat = "auto" } = options
    const format = template.formatFor(tools)
    const emit = (delta: OutputDelta): void => {
      this.#deltas.push(delta)
    }
    this.#parsing = readAnswer({
      input: this.#input,
      emit,
      format,
      calls: new CallWriter(emit, tools),
      hasTools: tools.length > 0,
      splitsThoughts: reasoningFormat !== "none",
      prompt,
    })
    this.#parsing.next()
  }

  /** What is known with this piece of text; often nothing, while it may be the beginning of a mark. */
  push(text: string): ReadonlyArray<OutputDelta> {
    this.#input.push(text)
    return this.#advance()
  }

  /** What was held back, when the text is over. */
  finish(): ReadonlyArray<OutputDelta> {
    this.#input.end()
    return this.#advance()
  }

  #advance(): ReadonlyArray<OutputDelta> {
    this.#parsing.next()
    const deltas = joined(this.#deltas)
    this.#deltas = []
    return deltas
  }
}

export interface Reading {
  readonly input: TextInput
  readonly emit: (delta: OutputDelta) => void
  readonly format: OutputFormat
  readonly calls: CallWriter
  readonly hasTools: boolean
  readonly splitsThoughts: boolean
  readonly prompt: string
}

function* readAnswer(reading: Reading): Parsing {
  const { format, hasTools } = reading
  if (format.tools.shape === "harmony") return yield* readHarmony(reading)
  yield* readThoughts(reading)
  if (hasTools && format.tools.shape === "recipient") return yield* readRecipients(reading)
  yield* readContent(reading)
}

function* readThoughts({ input, emit, format, splitsThoughts, prompt }: Reading): Parsing {
  if (format.thoughts === undefined || !splitsThoughts) return
  const [open, close] = format.thoughts
  if (!prompt.trimEnd().endsWith(open)) {
    const space = yield* input.space()
    if ((yield* input.accept(open)) === undefined) {
      if (space !== "") emit({ type: "content", text: space })
      return
    }
  }
  const thoughts = new Trimmed((text) => emit({ type: "reasoning", text }))
  yield* input.until([close], (text) => thoughts.push(text))
  yield* input.space()
}

function* readContent(reading: Reading): Parsing {
  const { input, emit, format, hasTools } = reading
  const opens = hasTools ? opensOf(format.tools) : []
  const marks = [...opens, ...(format.answer ?? [])]
  const content = new Trimmed((text) => emit({ type: "content", text }), { keepsStart: true })
  if (hasTools && format.tools.shape === "json" && format.tools.isBare) {
    yield* readCalls(reading, undefined, (text) => content.push(text))
  }
  for (;;) {
    const mark = yield* input.until(marks, (text) => content.push(text))
    if (mark === undefined) return content.flush()
    if (!opens.includes(mark)) continue
    yield* readCalls(reading, mark, (text) => content.push(text))
    content.dropSpace()
  }
}

/** Neighbours of one kind become one. */
const joined = (deltas: ReadonlyArray<OutputDelta>): ReadonlyArray<OutputDelta> => {
  const result: OutputDelta[] = []
  for (const delta of deltas) {
    const last = result.at(-1)
    if (last === undefined || !("text" in last && "text" in delta) || !isSameKind(last, delta)) {
      result.push(delta)
    } else result[result.length - 1] = { ...last, text: last.text + delta.text }
  }
  return result
}

const isSameKind = (one: OutputDelta, other: OutputDelta): boolean =>
  one.type === other.type &&
  ("index" in one ? one.index : undefined) === ("index" in other ? other.index : undefined)
