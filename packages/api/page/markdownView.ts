/** Markdown as elements, which grow with a text. */
import { copyButton } from "./copy.ts"
import { element } from "./dom.ts"
import { type Block, type Inline, parseInline, parseMarkdown } from "./markdown.ts"

const inlineTags = { strong: "strong", emphasis: "em", deleted: "del" } as const

const inlineNode = (part: Inline): Node => {
  switch (part.type) {
    case "text":
      return document.createTextNode(part.text)
    case "code":
      return element("code", {}, part.text)
    case "link":
      return element(
        "a",
        { href: part.href, target: "_blank", rel: "noopener noreferrer" },
        ...part.parts.map(inlineNode),
      )
    default:
      return element(inlineTags[part.type], {}, ...part.parts.map(inlineNode))
  }
}

const inline = (text: string): ReadonlyArray<Node> => parseInline(text).map(inlineNode)

/** The page's own headings are of the levels 1 to 3. */
const heading = (level: number, text: string): HTMLElement =>
  element(`h${Math.min(6, level + 3)}` as "h4", {}, ...inline(text))

const code = (language: string, text: string): HTMLElement =>
  element(
    "figure",
    { class: "code" },
    element(
      "figcaption",
      {},
      element("span", {}, language === "" ? "text" : language),
      copyButton("Copy code", () => text),
    ),
    // What scrolls must be in reach of the keyboard.
    element("pre", { tabindex: 0 }, element("code", {}, text)),
  )

const table = ({ head, rows }: Block & { type: "table" }): HTMLElement =>
  element(
    "div",
    { class: "table", tabindex: 0 },
    element(
      "table",
      {},
      element(
        "thead",
        {},
        element("tr", {}, ...head.map((cell) => element("th", {}, ...inline(cell)))),
      ),
      element(
        "tbody",
        {},
        ...rows.map((row) =>
          element("tr", {}, ...row.map((cell) => element("td", {}, ...inline(cell)))),
        ),
      ),
    ),
  )

const list = ({ start, items }: Block & { type: "list" }): HTMLElement => {
  const children = items.map((blocks) => {
    const [only] = blocks
    return blocks.length === 1 && only?.type === "paragraph"
      ? element("li", {}, ...inline(only.text))
      : element("li", {}, ...blocks.map(blockNode))
  })
  return start === undefined
    ? element("ul", {}, ...children)
    : element("ol", { start }, ...children)
}

const blockNode = (block: Block): HTMLElement => {
  switch (block.type) {
    case "paragraph":
      return element("p", {}, ...inline(block.text))
    case "heading":
      return heading(block.level, block.text)
    case "code":
      return code(block.language, block.text)
    case "quote":
      return element("blockquote", {}, ...block.blocks.map(blockNode))
    case "list":
      return list(block)
    case "table":
      return table(block)
    case "rule":
      return element("hr")
  }
}

/** Shows a text that grows: blocks that are as before keep their elements, and what is selected in them. */
export class MarkdownView {
  readonly node = element("div", { class: "markdown" })
  #shown: ReadonlyArray<string> = []

  show(text: string): void {
    const blocks = parseMarkdown(text)
    const keys = blocks.map((block) => JSON.stringify(block))
    const same = keys.findIndex((key, index) => key !== this.#shown[index])
    const from = same < 0 ? keys.length : same
    while (this.node.childNodes.length > from) this.node.lastChild!.remove()
    this.node.append(...blocks.slice(from).map(blockNode))
    this.#shown = keys
  }
}
