/**
 * Breaks a text into lines of at most `columns` characters, between words; a longer word stays whole. Line
 * breaks and indentation of the text are kept.
 */
export const wrap = (text: string, columns: number): ReadonlyArray<string> =>
  text.split("\n").flatMap((paragraph) => wrapLine(paragraph, columns))

const wrapLine = (text: string, columns: number): ReadonlyArray<string> => {
  const indent = /^ */.exec(text)![0]
  const lines: Array<string> = []
  let line = indent
  for (const word of text.slice(indent.length).split(" ")) {
    if (line !== indent && line.length + 1 + word.length > columns) {
      lines.push(line)
      line = indent + word
    } else {
      line = line === indent ? indent + word : `${line} ${word}`
    }
  }
  return [...lines, line]
}

/** Breaks a text that comes in pieces between words, as `wrap` does; a piece ends no word. */
export class StreamWrap {
  private readonly columns: number
  private column = 0

  constructor(columns: number) {
    this.columns = columns
  }

  /** The piece as it should be written. */
  push(piece: string): string {
    return piece.replaceAll(/\n|( *)([^\s]+)| +/g, (part, spaces: string = "", word = "") => {
      if (part === "\n") {
        this.column = 0
        return part
      }
      const isBreak = spaces !== "" && this.column + part.length > this.columns
      this.column = isBreak ? word.length : this.column + part.length
      return isBreak ? `\n${word}` : part
    })
  }
}
