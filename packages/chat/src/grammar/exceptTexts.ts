/** A JSON text that is none of some. */
import { classCharacter, type Gbnf, literal } from "./Gbnf.ts"
import { char } from "./json.ts"

interface Branch {
  readonly next: Map<string, Branch>
  isEnd: boolean
}

/** A rule for every JSON text but `texts`: it leaves the tree of their characters somewhere. */
export const exceptTexts = (grammar: Gbnf, name: string, texts: ReadonlyArray<string>): string => {
  const root: Branch = { next: new Map(), isEnd: false }
  for (const text of texts) {
    let branch = root
    // As JSON writes them, so that what is compared is what the model writes.
    for (const character of JSON.stringify(text).slice(1, -1)) {
      if (!branch.next.has(character)) branch.next.set(character, { next: new Map(), isEnd: false })
      branch = branch.next.get(character)!
    }
    branch.isEnd = true
  }
  return grammar.add(`${name}-other-key`, `"\\"" (${leaving(grammar, root)}) "\\""`)
}

const leaving = (grammar: Gbnf, { next, isEnd }: Branch): string => {
  const taken = [...next.keys()].map(classCharacter).join("")
  const within = [...next].map(
    ([character, branch]) => `${literal(character)} (${leaving(grammar, branch)})`,
  )
  const other = `[^"\\\\\\x7F\\x00-\\x1F${taken}] ${char(grammar)}*`
  return [...(isEnd ? [] : ['""']), other, ...within].join(" | ")
}
