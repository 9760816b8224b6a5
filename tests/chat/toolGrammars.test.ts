/** Grammars that make a model call tools: what each family writes, and nothing else. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { ChatTemplate, grammarOfTools, OutputReader, type Tool } from "@ggml-rpc/chat"
import { Llama } from "@ggml-rpc/native"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import {
  call,
  families,
  familyOf,
  weather,
} from "../../packages/chat/src/output/families.testHelper.ts"
import { type GrammarWalk, grammarWalk } from "./GrammarWalk.ts"

let walk: GrammarWalk
const scope = Effect.runSync(Scope.make())
beforeAll(async () => {
  const opened = grammarWalk.pipe(Effect.provide(Llama.layer), Scope.extend(scope))
  walk = await Effect.runPromise(opened)
})
afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

const clock: Tool = { type: "function", function: { name: "get_time" } }
const tools = [weather, clock]
const templateOf = (...marks: ReadonlyArray<string>) =>
  new ChatTemplate({ source: familyOf(...marks) })

// Llama's tag is not what its grammar asks for: a bare object does. The last mark of gpt-oss ends its text.
const written = families
  .filter(([name]) => name !== "Llama 3 with its tag")
  .map(([name, marks, text]) => [name, marks, text.replace("<|call|>", "")] as const)

test.each(written)("%s", (_, marks, text) => {
  const template = templateOf(...marks)
  const grammar = grammarOfTools(template, tools, "required", { prompt: "" })!
  expect(walk.takes(grammar, text)).toBe(true)
  expect(walk.takes(grammar, "Hello")).toBe(false)
  expect(walk.takes(grammar, text.replace("get_weather", "get_whether"))).toBe(false)
  expect(walk.takes(grammar, text.replace("days", "tage"))).toBe(false)

  const clockAlone = { type: "function", function: { name: "get_time" } } as const
  const other = grammarOfTools(template, tools, clockAlone, { prompt: "" })!
  expect(walk.takesPrefix(other, text)).toBe(false)
})

describe("around the calls", () => {
  const hermes = templateOf("<tool_call>", "<think>", "</think>")
  const one = `<tool_call>\n${call}\n</tool_call>`

  test("auto and none force nothing", () => {
    for (const choice of ["auto", "none"] as const) {
      expect(grammarOfTools(hermes, tools, choice, { prompt: "" })).toBeUndefined()
    }
  })

  test("several calls, unless there may be one alone", () => {
    const [many, single] = [true, false].map(
      (parallel) => grammarOfTools(hermes, tools, "required", { prompt: "", parallel })!,
    )
    expect(walk.takes(many!, `${one}\n${one}`)).toBe(true)
    expect(walk.takes(single!, `${one}\n${one}`)).toBe(false)
    expect(walk.takes(single!, one)).toBe(true)
  })

  test("the model may think before, and has to end it", () => {
    const thought = "What </tool_call> or </thin or <</think is that? 你好</think>\n\n"
    const closed = grammarOfTools(hermes, tools, "required", { prompt: "" })!
    expect(walk.takes(closed, `<think>${thought}${one}`)).toBe(true)
    expect(walk.takes(closed, `${thought}${one}`)).toBe(false)
    const begun = grammarOfTools(hermes, tools, "required", { prompt: "…<think>\n" })!
    expect(walk.takes(begun, `${thought}${one}`)).toBe(true)
    expect(walk.takes(begun, one)).toBe(false)
  })

  test("what the grammar takes is read back", () => {
    const coder = templateOf("<tool_call>", "<function=", "<parameter=")
    const text =
      '<tool_call>\n<function=get_weather>\n<parameter=city>\n"Zoë" <3\n</parameter>\n</function>\n</tool_call>'
    expect(walk.takes(grammarOfTools(coder, tools, "required", { prompt: "" })!, text)).toBe(true)
    const reader = new OutputReader(coder, { prompt: "", tools })
    const deltas = [...reader.push(text), ...reader.finish()]
    expect(deltas.map((delta) => ("text" in delta ? delta.text : delta.name)).join(" ")).toBe(
      'get_weather {"city": "\\"Zoë\\" <3"}',
    )
  })
})
