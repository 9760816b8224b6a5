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
