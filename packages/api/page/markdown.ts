/** Markdown as models write it, read into data: nothing in it becomes markup, so that nothing in it can do harm. */

export type Block =
  | { readonly type: "paragraph"; readonly text: string }
  | { readonly type: "heading"; readonly level: number; readonly text: string }
  | { readonly type: "code"; readonly language: string; readonly text: string }
  | { readonly type: "quote"; readonly blocks: ReadonlyArray<Block> }
  | {
      readonly type: "list"
      readonly start: number | undefined
      readonly items: ReadonlyArray<ReadonlyArray<Block>>
    }
  | {
      readonly type: "table"
      readonly head: ReadonlyArray<string>
      readonly rows: ReadonlyArray<ReadonlyArray<string>>
    }
  | { readonly type: "rule" }

export type Inline =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "code"; readonly text: string }
  | { readonly type: "strong" | "emphasis" | "deleted"; readonly parts: ReadonlyArray<Inline> }
  | { readonly type: "link"; readonly href: string; readonly parts: ReadonlyArray<Inline> }

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/
const QUOTE = /^ {0,3}> ?/
const ITEM = /^( *)([-*+]|(\d{1,9})[.)])(?:( +)(.*)|$)/
const TABLE_LINE = /^ {0,3}\|?( *:?-+:? *\|)+( *:?-+:? *)?$/

/** Lists and quotes in one another, beyond which they are text: a model's slip must not cost the page its stack. */
const MAX_DEPTH = 12

const isBlank = (line: string | undefined): boolean => line === undefined || line.trim() === ""

const cells = (line: string): ReadonlyArray<string> =>
  line
    .trim()
    .replace(/^\||\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"))

/** Reads lines from the front, one block at a time. */
class BlockReader {
  readonly #lines: ReadonlyArray<string>
  readonly #depth: number
  #at = 0

  constructor(lines: ReadonlyArray<string>, depth: number) {
    this.#lines = lines
    this.#depth = depth
  }

  read(): ReadonlyArray<Block> {
    const blocks: Array<Block> = []
    while (this.#at < this.#lines.length) {
      if (isBlank(this.#line)) this.#at += 1
      else blocks.push(this.#block())
    }
    return blocks
  }

  get #line(): string {
    return this.#lines[this.#at]!
  }

  #block(): Block {
    const fence = FENCE.exec(this.#line)
    if (fence !== null) return this.#code(fence)
    const heading = HEADING.exec(this.#line)
    if (heading !== null) {
      this.#at += 1
      return { type: "heading", level: heading[1]!.length, text: heading[2]! }
    }
    if (RULE.test(this.#line)) {
      this.#at += 1
      return { type: "rule" }
    }
    if (this.#depth < MAX_DEPTH) {
      if (QUOTE.test(this.#line)) return this.#quote()
      const item = ITEM.exec(this.#line)
      if (item !== null) return this.#list(item)
    }
    return this.#isTable() ? this.#table() : this.#paragraph()
  }

  /** Up to the closing fence; while it is being written, up to the end. */
  #code([, indent, fence, language]: RegExpExecArray): Block {
    const lines: Array<string> = []
    const closing = new RegExp(`^ {0,3}${fence![0] === "~" ? "~" : "`"}{${fence!.length},}\\s*$`)
    this.#at += 1
    while (this.#at < this.#lines.length && !closing.test(this.#line)) {
      const own = this.#line.startsWith(indent!) ? this.#line.slice(indent!.length) : this.#line
      lines.push(own)
      this.#at += 1
    }
    this.#at += 1
    return { type: "code", language: language!, text: lines.join("\n") }
  }

  #quote(): Block {
    const lines: Array<string> = []
    while (this.#at < this.#lines.length && QUOTE.test(this.#line)) {
      lines.push(this.#line.replace(QUOTE, ""))
      this.#at += 1
    }
    return { type: "quote", blocks: new BlockReader(lines, this.#depth + 1).read() }
  }

  #list(first: RegExpExecArray): Block {
    const indent = first[1]!.length
    const isOrdered = first[3] !== undefined
    const items: Array<ReadonlyArray<Block>> = []
    for (;;) {
      const item = this.#at < this.#lines.length ? ITEM.exec(this.#line) : null
      if (item === null || item[1]!.length < indent || (item[3] !== undefined) !== isOrdered) break
      items.push(this.#item(item))
    }
    return { type: "list", start: isOrdered ? Number(first[3]) : undefined, items }
  }

  /** Its own line, and what stands deeper than its mark. */
  #item([, before, mark, , , text]: RegExpExecArray): ReadonlyArray<Block> {
    const depth = before!.length + 1
    const inner = before!.length + mark!.length + 1
    const lines = [text ?? ""]
    this.#at += 1
    while (this.#at < this.#lines.length) {
      const line = this.#line
      const indent = line.length - line.trimStart().length
      if (isBlank(line)) {
        const next = this.#lines.slice(this.#at).find((later) => !isBlank(later))
        if (next === undefined || next.length - next.trimStart().length < depth) {
          this.#skipBlank()
          break
        }
      } else if (indent < depth && (this.#startsBlock(line) || isBlank(lines.at(-1)))) break
      lines.push(line.slice(Math.min(indent, inner)))
      this.#at += 1
    }
    return new BlockReader(lines, this.#depth + 1).read()
  }

  /** So that items with blank lines between them are one list. */
  #skipBlank(): void {
    while (this.#at < this.#lines.length && isBlank(this.#line)) this.#at += 1
  }

  #startsBlock(line: string): boolean {
    return (
      FENCE.test(line) ||
      HEADING.test(line) ||
      RULE.test(line) ||
      QUOTE.test(line) ||
      ITEM.test(line)
    )
  }

  #isTable(): boolean {
    const next = this.#lines[this.#at + 1]
    return this.#line.includes("|") && next !== undefined && TABLE_LINE.test(next)
  }

  #table(): Block {
    const head = cells(this.#line)
    this.#at += 2
    const rows: Array<ReadonlyArray<string>> = []
    while (this.#at < this.#lines.length && this.#line.includes("|")) {
      const row = cells(this.#line)
      rows.push(head.map((_, column) => row[column] ?? ""))
      this.#at += 1
    }
    return { type: "table", head, rows }
  }

  #paragraph(): Block {
    const lines: Array<string> = []
    do {
      lines.push(this.#line)
      this.#at += 1
    } while (
      this.#at < this.#lines.length &&
      !isBlank(this.#line) &&
      !this.#startsBlock(this.#line) &&
      !this.#isTable()
    )
    return { type: "paragraph", text: lines.join("\n").trim() }
  }
}

export const parseMarkdown = (text: string): ReadonlyArray<Block> =>
  new BlockReader(text.split(/\r?\n/), 0).read()

/** The first mark that comes up counts; none of these repeats what could match in several ways. */
const INLINE = [
  /(?<!`)(?<ticks>`{1,3})(?!`)(?<code>[^`]|[^`].*?[^`])\k<ticks>(?!`)/,
  /\*\*(?=\S)(?<strong>[^*]+(?:\*[^*]+\*[^*]*)*)\*\*/,
  /(?<![\w*])\*(?=[^\s*])(?<emphasis>[^*]+)\*/,
  /(?<!\w)_(?=[^\s_])(?<underlined>[^_]+)_(?!\w)/,
  /~~(?=\S)(?<deleted>[^~]+)~~/,
  /\[(?<label>[^[\]]*)\]\((?<href>[^()\s]+(?:\([^()\s]*\)[^()\s]*)*)(?: "[^"]*")?\)/,
  /(?<bare>https?:\/\/[^\s<>"')\]]*[^\s<>"')\].,;:!?])/,
  /\\(?<escaped>[\\`*_{}[\]()#+\-.!~|>])/,
]
const inlineMark = new RegExp(INLINE.map(({ source }) => source).join("|"), "s")

/** Addresses that a click may lead to: no scripts, no files. */
const isSafe = (href: string): boolean => /^(https?:\/\/|mailto:)/i.test(href)

const inlineOf = (groups: Readonly<Record<string, string | undefined>>): Inline => {
  const { code, strong, emphasis, underlined, deleted, label, href, bare, escaped } = groups
  if (code !== undefined) return { type: "code", text: code.replace(/^ (.*\S.*) $/s, "$1") }
  if (strong !== undefined) return { type: "strong", parts: parseInline(strong) }
  const slanted = emphasis ?? underlined
  if (slanted !== undefined) return { type: "emphasis", parts: parseInline(slanted) }
  if (deleted !== undefined) return { type: "deleted", parts: parseInline(deleted) }
  if (bare !== undefined) return { type: "link", href: bare, parts: [{ type: "text", text: bare }] }
  if (href !== undefined) {
    const parts = parseInline(label ?? "")
    return isSafe(href)
      ? { type: "link", href, parts }
      : { type: "text", text: `[${label}](${href})` }
  }
  return { type: "text", text: escaped ?? "" }
}

/** What is in a line of text. */
export const parseInline = (text: string): ReadonlyArray<Inline> => {
  const parts: Array<Inline> = []
  let rest = text
  while (rest !== "") {
    const found = inlineMark.exec(rest)
    if (found === null) break
    if (found.index > 0) parts.push({ type: "text", text: rest.slice(0, found.index) })
    parts.push(inlineOf(found.groups!))
    rest = rest.slice(found.index + found[0].length)
  }
  if (rest !== "") parts.push({ type: "text", text: rest })
  return parts
}
