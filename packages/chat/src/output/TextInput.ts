/**
 * Text that comes in pieces, for parsers that are generators: one that needs more than there is yields, and goes on
 * when more has come or nothing will. What may be the beginning of a mark is held back until that is known.
 */
export type Parsing<T = void> = Generator<void, T, void>

export type Sink = (text: string) => void

export class TextInput {
  /** What has come and was not consumed. */
  #text = ""
  #isEnded = false

  push(text: string): void {
    this.#text += text
  }

  end(): void {
    this.#isEnded = true
  }

  get isAtEnd(): boolean {
    return this.#isEnded && this.#text === ""
  }

  /** Hands text to `sink` until one of `marks`, which is consumed and returned; undefined when none comes. */
  *until(marks: ReadonlyArray<string>, sink: Sink): Parsing<string | undefined> {
    for (;;) {
      const found = firstMark(this.#text, marks)
      const length =
        found?.at ?? this.#text.length - (this.#isEnded ? 0 : heldBack(this.#text, marks))
      if (length > 0) sink(this.#take(length))
      if (found !== undefined) {
        this.#take(found.mark.length)
        return found.mark
      }
      if (this.#isEnded) return undefined
      yield
    }
  }

  /** Consumes the first of `marks` that the text begins with; undefined where it begins with none. */
  *accept(...marks: ReadonlyArray<string>): Parsing<string | undefined> {
    for (;;) {
      const text = this.#text
      // A longer mark may still come: "ab" of "abc".
      const isOpen = marks.some((mark) => mark.length > text.length && mark.startsWith(text))
      if (!isOpen || this.#isEnded) {
        const mark = marks.find((one) => text.startsWith(one))
        if (mark !== undefined) this.#take(mark.length)
        return mark
      }
      yield
    }
  }

  /** The next character, not consumed; undefined at the end. */
  *peek(): Parsing<string | undefined> {
    while (this.#text === "" && !this.#isEnded) yield
    return this.#text[0]
  }

  /** Consumes and returns the white space that is next. */
  *space(): Parsing<string> {
    let space = ""
    for (;;) {
      const length = this.#text.length - this.#text.trimStart().length
      space += this.#take(length)
      if (this.#text !== "" || this.#isEnded) return space
      yield
    }
  }

  /** Hands one JSON value to `sink` as it comes; false where it is none or does not end. */
  *json(sink: Sink): Parsing<boolean> {
    const end = new JsonEnd()
    for (;;) {
      const { length, isOver, isJson } = end.read(this.#text, this.#isEnded)
      if (length > 0) sink(this.#take(length))
      if (isOver) return isJson
      yield
    }
  }

  #take(length: number): string {
    const taken = this.#text.slice(0, length)
    this.#text = this.#text.slice(length)
    return taken
  }
}

const firstMark = (text: string, marks: ReadonlyArray<string>) => {
  let first: { at: number; mark: string } | undefined
  for (const mark of marks) {
    const at = text.indexOf(mark)
    if (at < 0) continue
    const isFirst =
      first === undefined || at < first.at || (at === first.at && mark.length > first.mark.length)
    if (isFirst) first = { at, mark }
  }
  return first
}

/** Length of the longest end of `text` that one of `marks` could begin with. */
const heldBack = (text: string, marks: ReadonlyArray<string>): number => {
  const longest = Math.max(0, ...marks.map(({ length }) => length - 1))
  for (let length = Math.min(longest, text.length); length > 0; length--) {
    const end = text.slice(-length)
    if (marks.some((mark) => mark.startsWith(end))) return length
  }
  return 0
}

/** Finds where a JSON value ends, by brackets and quotes alone. */
class JsonEnd {
  #depth = 0
  #isInString = false
  #isEscaped = false
  #hasBegun = false

  /** How much of `text` belongs to the value, and whether that is all of it. */
  read(text: string, isLast: boolean): { length: number; isOver: boolean; isJson: boolean } {
    for (let at = 0; at < text.length; at++) {
      const character = text[at]!
      if (this.#isInString) {
        if (this.#isEscaped) this.#isEscaped = false
        else if (character === "\\") this.#isEscaped = true
        else if (character === '"') {
          this.#isInString = false
          if (this.#depth === 0) return { length: at + 1, isOver: true, isJson: true }
        }
      } else if (character === '"') {
        this.#isInString = true
        this.#hasBegun = true
      } else if (character === "{" || character === "[") {
        this.#depth++
        this.#hasBegun = true
      } else if (character === "}" || character === "]") {
        // The end of what a number or a word is in.
        if (this.#depth === 0) return { length: at, isOver: true, isJson: this.#hasBegun }
        if (--this.#depth === 0) return { length: at + 1, isOver: true, isJson: true }
      } else if (this.#depth === 0 && !/[\w.+-]/.test(character)) {
        return { length: at, isOver: true, isJson: this.#hasBegun }
      } else this.#hasBegun = true
    }
    const isJson = this.#hasBegun && this.#depth === 0 && !this.#isInString
    return { length: text.length, isOver: isLast, isJson }
  }
}
