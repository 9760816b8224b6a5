import { describe, expect, test } from "bun:test"
import { type Inline, parseInline, parseMarkdown } from "./markdown.ts"

describe("blocks", () => {
  test("headings, paragraphs, rules", () => {
    expect(parseMarkdown("# One #\n\nfirst\nsecond\n\n---\n### Three")).toEqual([
      { type: "heading", level: 1, text: "One" },
      { type: "paragraph", text: "first\nsecond" },
      { type: "rule" },
      { type: "heading", level: 3, text: "Three" },
    ])
  })

  test("code, with its language, and while it is not closed yet", () => {
    const code = { type: "code", language: "ts", text: "const a = 1\n\n# no heading" } as const
    expect(parseMarkdown("```ts\nconst a = 1\n\n# no heading\n```\nafter")).toEqual([
      code,
      { type: "paragraph", text: "after" },
    ])
    expect(parseMarkdown("```ts\nconst a = 1\n\n# no heading")).toEqual([code])
    expect(parseMarkdown("````\n```\n````")).toEqual([{ type: "code", language: "", text: "```" }])
  })

  test("lists in one another", () => {
    const text = (words: string) => ({ type: "paragraph", text: words }) as const
    expect(parseMarkdown("3. three\n   - a\n   - b\n\n     more\n4. four\nends\n\nafter")).toEqual([
      {
        type: "list",
        start: 3,
        items: [
          [
            text("three"),
            { type: "list", start: undefined, items: [[text("a")], [text("b"), text("more")]] },
          ],
          [text("four\nends")],
        ],
      },
      text("after"),
    ])
  })

  test("items with blank lines between them are one list, with code in it", () => {
    expect(parseMarkdown("- a\n\n- b\n  ```\n  x\n    y\n  ```\n")).toEqual([
      {
        type: "list",
        start: undefined,
        items: [
          [{ type: "paragraph", text: "a" }],
          [
            { type: "paragraph", text: "b" },
            { type: "code", language: "", text: "x\n  y" },
          ],
        ],
      },
    ])
  })

  test("quotes and tables", () => {
    expect(parseMarkdown("> one\n> > two\n\n| a | b |\n|---|:-:|\n| 1 \\| 2 | 3 |\n| 4 |")).toEqual(
      [
        {
          type: "quote",
          blocks: [
            { type: "paragraph", text: "one" },
            { type: "quote", blocks: [{ type: "paragraph", text: "two" }] },
          ],
        },
        {
          type: "table",
          head: ["a", "b"],
          rows: [
            ["1 | 2", "3"],
            ["4", ""],
          ],
        },
      ],
    )
  })

  test("nothing is lost of what is nested too deep, and it takes no time", () => {
    const startedMs = performance.now()
    const deep = JSON.stringify(parseMarkdown(`${"> ".repeat(10_000)}end`))
    expect(deep).toContain("end")
    parseMarkdown(`${"- ".repeat(10_000)}end`)
    expect(performance.now() - startedMs).toBeLessThan(2000)
  })
})

describe("inline", () => {
  const text = (words: string) => ({ type: "text", text: words }) as const

  test("marks", () => {
    expect(parseInline("a **b *c* d** `e*f*` ~~g~~ _h_ snake_case_name 2*3*4")).toEqual([
      text("a "),
      {
        type: "strong",
        parts: [text("b "), { type: "emphasis", parts: [text("c")] }, text(" d")],
      },
      text(" "),
      { type: "code", text: "e*f*" },
      text(" "),
      { type: "deleted", parts: [text("g")] },
      text(" "),
      { type: "emphasis", parts: [text("h")] },
      text(" snake_case_name 2*3*4"),
    ])
  })

  test("what is not closed, or escaped, is text", () => {
    const plain = (parts: ReadonlyArray<Inline>) =>
      parts.map((part) => (part.type === "text" ? part.text : `<${part.type}>`)).join("")
    expect(plain(parseInline("**a `b [c](d"))).toBe("**a `b [c](d")
    expect(plain(parseInline("\\*a\\* \\`b\\`"))).toBe("*a* `b`")
  })

  test("links lead to pages alone", () => {
    expect(parseInline("[a](https://x.y/z_(w)) https://b.c/d.")).toEqual([
      { type: "link", href: "https://x.y/z_(w)", parts: [text("a")] },
      text(" "),
      { type: "link", href: "https://b.c/d", parts: [text("https://b.c/d")] },
      text("."),
    ])
    for (const href of ["javascript:alert(1)", "JAVASCRIPT:x", "data:text/html,x", "file:///etc"]) {
      expect(parseInline(`[a](${href})`).every(({ type }) => type === "text")).toBe(true)
    }
  })

  test.each(["*", "**", "_", "`", "[", "~~", "[a](", "** *", "https://"])(
    "20,000 times %p take no time",
    (mark) => {
      const startedMs = performance.now()
      parseInline(mark.repeat(20_000))
      expect(performance.now() - startedMs).toBeLessThan(2000)
    },
  )
})
