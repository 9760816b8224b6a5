import { expect, test } from "bun:test"
import { readEvents } from "./events.ts"

test("data are the same wherever the bytes are cut, and comments are none", async () => {
  const text = ': ping\n\ndata: {"a": "日本 🎉"}\n\nevent: x\r\ndata:two\r\n\r\ndata: [DONE]\n\n'
  const bytes = new TextEncoder().encode(text)
  for (const size of [1, 2, 3, 7, bytes.length]) {
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        for (let at = 0; at < bytes.length; at += size) {
          controller.enqueue(bytes.subarray(at, at + size))
        }
        controller.close()
      },
    })
    const data: Array<string> = []
    await readEvents(body, (one) => data.push(one))
    expect(data).toEqual(['{"a": "日本 🎉"}', "two", "[DONE]"])
  }
})
