import { describe, expect, test } from "bun:test"
import { PassThrough } from "node:stream"
import type { ReadStream } from "node:tty"
import { KeyInput } from "./KeyInput.ts"

const [BEGIN, END] = ["\x1b[200~", "\x1b[201~"]

/** A terminal whose keys the test presses, and what the editor got of them. */
const opened = () => {
  const modes: boolean[] = []
  const terminal = Object.assign(new PassThrough(), {
    setRawMode: (isRaw: boolean) => modes.push(isRaw),
  })
  const written: string[] = []
  const keys = new KeyInput(terminal as unknown as ReadStream, (text) => written.push(text))
  let got = ""
  keys.stream.on("data", (data) => {
    got += String(data)
  })
  keys.open()
  const press = async (...pieces: ReadonlyArray<string>): Promise<string> => {
    for (const piece of pieces) {
      terminal.write(piece)
      await new Promise(setImmediate)
    }
    return got
  }
  return { keys, press, modes, written }
}

describe("keys", () => {
  test("are passed on while a line is read, and what follows its Return is for the next", async () => {
    const { keys, press } = opened()
    keys.read()
    expect(await press("a", "b\x1b[D", "\x1b", "c\rnext", "er\rthird")).toBe("ab\x1b[D\x1bc\r")
    keys.read()
    expect(await press("")).toBe("ab\x1b[D\x1bc\rnexter\r")
    keys.read()
    expect(await press("")).toEndWith("third")
  })

  test("pasted lines become one word, wherever the marks are cut", async () => {
    const pasted = `x${BEGIN}one\r\n\ttwo\rthree\n${END}y${BEGIN}a\tb\x07${END}z`
    for (const size of [1, 2, 3, 7, pasted.length]) {
      const { keys, press } = opened()
      keys.read()
      const pieces = pasted.match(new RegExp(`[\\s\\S]{1,${size}}`, "g"))!
      // The Escape key alone is a key: a mark that is cut behind it cannot be told from it.
      const whole = pieces.reduce<string[]>((done, piece) => {
        if (done.at(-1)?.endsWith("\x1b")) done.push(done.pop()! + piece)
        else done.push(piece)
        return done
      }, [])
      const line = await press(...whole)
      expect(line).toBe("x[pasted 1: 3 lines]ya  bz")
      expect(keys.expanded(line)).toBe("xone\n\ttwo\nthree\nya  bz")
    }
  })

  test("Ctrl-C in an answer is told each time, and the rest is kept", async () => {
    const { keys, press } = opened()
    let count = 0
    keys.hold(() => count++)
    expect(await press("la\x03\x03ter")).toBe("")
    expect(count).toBe(2)
    keys.read()
    expect(await press("")).toBe("later")
    expect(await press("\x03")).toBe("later\x03")
    expect(count).toBe(2)
  })

  test("the terminal is left as it was", () => {
    const { keys, modes, written } = opened()
    keys.close()
    expect(modes).toEqual([true, false])
    expect(written).toEqual(["\x1b[?2004h", "\x1b[?2004l"])
  })
})
