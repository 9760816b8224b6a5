/** The built-in templates against libllama's own, conversation by conversation. */
import { dlopen, ptr } from "bun:ffi"
import { expect, test } from "bun:test"
import { librarySet } from "@ggml-rpc/native"
import { builtinTemplate, builtinTemplateNames } from "./builtin.ts"
import { Jinja } from "./Jinja.ts"

interface Message {
  readonly role: string
  readonly content: string
}

const { symbols: llama } = dlopen(librarySet().llama, {
  llama_chat_apply_template: {
    args: ["ptr", "ptr", "u64", "bool", "ptr", "i32"],
    returns: "i32",
  },
  llama_chat_builtin_templates: { args: ["ptr", "u64"], returns: "i32" },
})

const cString = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`)

/** What libllama makes of the messages; llama_chat_message is two pointers, role and content. */
const applied = (template: string, messages: ReadonlyArray<Message>, answers: boolean): string => {
  const texts = messages.flatMap(({ role, content }) => [cString(role), cString(content)])
  const chat = new BigUint64Array(texts.map((text) => BigInt(ptr(text))))
  const output = new Uint8Array(4096)
  const name = cString(template)
  const length = llama.llama_chat_apply_template(
    name,
    chat,
    BigInt(messages.length),
    answers,
    output,
    output.length,
  )
  expect(length).toBeGreaterThanOrEqual(0)
  return new TextDecoder().decode(output.subarray(0, length))
}

const message = (role: string, content: string): Message => ({ role, content })
const conversations: ReadonlyArray<ReadonlyArray<Message>> = [
  [message("user", "Hello")],
  [message("system", " You are {{ brief }}. "), message("user", "Hello\n")],
  [
    message("system", "Be kind."),
    message("user", "  What is 1 + 1?  "),
    message("assistant", "  It is <2>.\n"),
    message("user", "Und auf Deutsch? 你好 🙂"),
  ],
  [
    message("user", "One"),
    message("assistant", "Two"),
    message("user", "Three"),
    message("assistant", "Four"),
  ],
  [message("user", "a"), message("assistant", "b"), message("system", "c"), message("user", "d")],
  [message("user", "Weather?"), message("assistant", ""), message("tool", ' {"celsius": 20} ')],
]

test.each(builtinTemplateNames.map((name) => [name]))("%s is libllama's", (name) => {
  const jinja = new Jinja(builtinTemplate(name))
  for (const messages of conversations) {
    for (const answers of [true, false]) {
      const variables = { messages, add_generation_prompt: answers }
      expect(jinja.render(variables, new Date())).toBe(applied(name, messages, answers))
    }
  }
})

test("there is one for each of libllama's names", () => {
  expect(llama.llama_chat_builtin_templates(new BigUint64Array(0), 0n)).toBe(
    builtinTemplateNames.length,
  )
})
