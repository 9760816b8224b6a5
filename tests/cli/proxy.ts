/** A server that passes everything on to another one, frame by frame, and may change it on the way. */
import { commandSpec } from "@ggml-rpc/protocol"

export interface ProxyHooks {
  /** May change a request's payload in place. */
  readonly onRequest?: (command: number, payload: Uint8Array) => void
  /** May change the payload of the response to `command` in place. */
  readonly onResponse?: (command: number, payload: Uint8Array) => void
}

export interface Proxy extends Disposable {
  readonly endpoint: string
}

/** Cuts a stream into frames and hands each on when it is complete. */
class Frames {
  private bytes = Buffer.alloc(0)
  private readonly headerSize: number
  private readonly handle: (frame: Buffer) => void

  constructor(headerSize: number, handle: (frame: Buffer) => void) {
    this.headerSize = headerSize
    this.handle = handle
  }

  push(chunk: Uint8Array): void {
    this.bytes = Buffer.concat([this.bytes, chunk])
    for (;;) {
      if (this.bytes.length < this.headerSize) return
      const size = this.headerSize + Number(this.bytes.readBigUInt64LE(this.headerSize - 8))
      if (this.bytes.length < size) return
      const frame = Buffer.from(this.bytes.subarray(0, size))
      this.bytes = this.bytes.subarray(size)
      this.handle(frame)
    }
  }
}

interface Link {
  readonly upstream: ReturnType<typeof Bun.connect>
  readonly requests: Frames
}

/** Writes all of it, however little the socket takes at a time. */
class Outbox {
  private waiting = Buffer.alloc(0)
  private readonly write: (bytes: Uint8Array) => number

  constructor(write: (bytes: Uint8Array) => number) {
    this.write = write
  }

  push(bytes: Uint8Array): void {
    this.waiting = Buffer.concat([this.waiting, bytes])
    this.drain()
  }

  drain(): void {
    this.waiting = this.waiting.subarray(this.write(this.waiting))
  }
}

export const startProxy = (port: number, hooks: ProxyHooks): Proxy => {
  const listener = Bun.listen<Link & { readonly toClient: Outbox }>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(client) {
        const toClient = new Outbox((bytes) => client.write(bytes))
        const unanswered: Array<number> = []
        const responses = new Frames(8, (frame) => {
          const command = unanswered.shift()
          if (command !== undefined) hooks.onResponse?.(command, frame.subarray(8))
          toClient.push(frame)
        })
        let toServer: Outbox | undefined
        const upstream = Bun.connect({
          hostname: "127.0.0.1",
          port,
          socket: {
            open(server) {
              toServer = new Outbox((bytes) => server.write(bytes))
            },
            data: (_server, chunk) => responses.push(chunk),
            drain: () => toServer?.drain(),
            close: () => {
              client.end()
            },
          },
        })
        const requests = new Frames(9, (frame) => {
          const command = frame[0]!
          if (commandSpec(command)?.response != null) unanswered.push(command)
          hooks.onRequest?.(command, frame.subarray(9))
          void upstream.then(() => toServer!.push(frame))
        })
        client.data = { upstream, requests, toClient }
      },
      data: (client, chunk) => client.data.requests.push(chunk),
      drain: (client) => client.data.toClient.drain(),
      close(client) {
        void client.data.upstream.then((server) => server.end())
      },
      error() {},
    },
  })
  return {
    endpoint: `127.0.0.1:${listener.port}`,
    [Symbol.dispose]: () => listener.stop(true),
  }
}
