import { describe, expect, test } from "bun:test"
import { type ChatMessage, ChatTemplate, type Tool } from "../index.ts"
import { strftime } from "./strftime.ts"

const user = (content: ChatMessage["content"]): ChatMessage => ({ role: "user", content })
const tool: Tool = { type: "function", function: { name: "f", description: "does f" } }
const calls: ReadonlyArray<ChatMessage> = [
  user("q"),
  {
    role: "assistant",
    content: null,
    tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: '{"a": "b"}' } }],
  },
  { role: "tool", tool_call_id: "1", name: "f", content: "done" },
]

const loop = (each: string): string => `{% for m in messages %}${each}{% endfor %}`
const failureOf = (render: () => unknown): unknown => {
  try {
    render()
  } catch (error) {
    return error
  }
  throw new Error("did not fail")
}

describe("what a template lacks", () => {
  test("a system message goes into the message after it, a developer's is one", () => {
    const template = new ChatTemplate({
      source: loop("{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}"),
    })
    expect(template.capabilities.hasSystemRole).toBe(false)
    for (const role of ["system", "developer"]) {
      const messages = [{ role, content: "Be brief." }, user("Hi")]
      expect(template.render({ messages })).toBe("[user]Be brief.\nHi")
    }
    expect(template.render({ messages: [{ role: "system", content: "alone" }] })).toBe("")
  })

  test("content is text for one that takes text, parts for one that takes parts", () => {
    const parts = [
      { type: "text", text: "one" },
      { type: "text", text: "two" },
    ]
    const text = new ChatTemplate({ source: loop("{{ m.content }}") })
    expect(text.render({ messages: [user(parts), user("three")] })).toBe("one\ntwothree")
    const typed = new ChatTemplate({
      source: loop("{% for p in m.content %}<{{ p.text }}>{% endfor %}"),
    })
    expect(typed.render({ messages: [user(parts), user("three")] })).toBe("<one><two><three>")
  })

  test("arguments are an object for one that goes through them, else text", () => {
    const each = (args: string) =>
      loop(`{{ m.content }}{% for c in m.tool_calls or [] %}{{ ${args} }}{% endfor %}`)
    const object = new ChatTemplate({ source: each("c.function.arguments | tojson") })
    expect(object.render({ messages: calls })).toBe('q{"a": "b"}done')
    const text = new ChatTemplate({ source: each("'' + c.function.arguments") })
    expect(text.capabilities.takesObjectArguments).toBe(false)
    expect(text.render({ messages: calls })).toBe('q{"a": "b"}done')
  })

  test("tools and their calls are told as text", () => {
    const template = new ChatTemplate({ source: loop("[{{ m.role }}]{{ m.content }}") })
    const text = template.render({ messages: calls, tools: [tool] })
    expect(text).toContain('"description":"does f"')
    expect(text).toContain(
      '[assistant]<tool_call>\n{"name": "f", "arguments": {"a": "b"}}\n</tool_call>',
    )
    expect(text).toContain("[tool]done")
    expect(template.render({ messages: calls, tools: [tool], toolChoice: "none" })).not.toContain(
      "does f",
    )
  })

  test("results of one answer are one message of the user's where a template has no role for them", () => {
    const template = new ChatTemplate({
      source: loop("{% if m.role != 'tool' %}[{{ m.role }}]{{ m.content }}{% endif %}"),
    })
    const text = template.render({ messages: [...calls, { role: "tool", content: "again" }] })
    expect(text.match(/\[user\]/g)).toHaveLength(2)
    expect(text).toEndWith(
      '[user]<tool_response>\n{"name":"f","content":"done"}\n</tool_response>\n<tool_response>\n{"content":"again"}\n</tool_response>',
    )
  })

  test("a template that needs a list of tools gets an empty one, others none", () => {
    const listed = new ChatTemplate({
      source: `{% for t in tools %}{{ t.function.description }}{% endfor %}${loop("{{ m.content }}")}`,
    })
    expect(listed.render({ messages: [user("Hi")] })).toBe("Hi")
    const asking = new ChatTemplate({
      source: `{% if tools is defined %}tools{% endif %}${loop("{{ m.content }}")}`,
    })
    expect(asking.render({ messages: [user("Hi")] })).toBe("Hi")
  })
})

describe("rendering", () => {
  test("the first token's text is not doubled", () => {
    const source = `{{ bos_token }}${loop("{{ m.content }}{{ eos_token }}")}`
    const texts = { source, bosText: "<s>", eosText: "</s>" }
    const messages = [user("Hi")]
    expect(new ChatTemplate(texts).render({ messages })).toBe("<s>Hi</s>")
    expect(new ChatTemplate({ ...texts, addsBos: true }).render({ messages })).toBe("Hi</s>")
  })

  test("the variant for tools is taken where there are tools", () => {
    const template = new ChatTemplate({
      source: "plain",
      variants: { tool_use: "{{ tools[0].function.description }} <TOOLCALL>" },
    })
    expect(template.render({ messages: [user("Hi")] })).toBe("plain")
    expect(template.render({ messages: [user("Hi")], tools: [tool] })).toBe("does f <TOOLCALL>")
    expect(template.formatFor([tool]).tools).toMatchObject({ opens: ["<TOOLCALL>"] })
    expect(template.formatFor().tools).toMatchObject({ opens: ["<tool_call>"] })
  })

  test("without a template it is chatml", () => {
    expect(new ChatTemplate().render({ messages: [user("Hi")] })).toBe(
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    )
  })

  test("thinking, dates and more variables", () => {
    const source =
      "{{ enable_thinking }} {{ strftime_now('%Y-%m-%d') }} {{ date_string }} {{ reasoning_effort }}"
    const template = new ChatTemplate({ source })
    const now = new Date(2026, 1, 3)
    const kwargs = { reasoning_effort: "low" }
    expect(template.render({ messages: [], now, enableThinking: false, kwargs })).toBe(
      "false 2026-02-03 03 Feb 2026 low",
    )
  })

  test("dates as C writes them", () => {
    const date = new Date(2026, 10, 5, 15, 4, 9)
    expect(strftime(date, "%a %A %b %B %d %e %H:%M:%S %I %p %j %y %Y %% %F %T %Q %-d")).toBe(
      "Thu Thursday Nov November 05  5 15:04:09 03 PM 309 26 2026 % 2026-11-05 15:04:09 %Q 5",
    )
  })
})

describe("what fails says so", () => {
  test("a template that is no Jinja", () => {
    const error = failureOf(() => new ChatTemplate({ source: "{% for %}" }))
    expect(error).toMatchObject({ _tag: "TemplateSyntaxError" })
    expect(String(error)).toContain("--chat-template")
  })

  test("a template that raises an exception, and one that fails", () => {
    const refusing = new ChatTemplate({ source: "{{ raise_exception('no images') }}" })
    expect(failureOf(() => refusing.render({ messages: [user("Hi")] }))).toMatchObject({
      _tag: "TemplateRefusalError",
      reason: "no images",
    })
    const failing = new ChatTemplate({ source: "{{ nothing.at.all() }}" })
    expect(failureOf(() => failing.render({ messages: [user("Hi")] }))).toMatchObject({
      _tag: "TemplateRenderError",
    })
  })

  test("messages that cannot be shown, by their path", () => {
    const template = new ChatTemplate()
    const pathOf = (messages: ReadonlyArray<ChatMessage>) =>
      (failureOf(() => template.render({ messages })) as { path: string }).path
    expect(pathOf([user("Hi"), { role: "user" }])).toBe("messages[1]")
    expect(pathOf([user([{ type: "image_url" }])])).toBe("messages[0].content[0]")
    const object = new ChatTemplate({
      source: loop(
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}",
      ),
    })
    const call = { function: { name: "f", arguments: "{not json" } }
    const messages = [{ role: "assistant", tool_calls: [call] }]
    expect(failureOf(() => object.render({ messages }))).toMatchObject({
      path: "messages[0].tool_calls[0].function.arguments",
    })
  })

  test("a built-in template that there is not", async () => {
    const { builtinTemplate } = await import("./builtin.ts")
    expect(String(failureOf(() => builtinTemplate("lama3")))).toContain("llama3")
  })
})
