/**
 * A bad network between a client and a server on this machine: a TCP relay that delays, cuts bytes into
 * small pieces, stops passing them on, or breaks the connection.
 */
import type { Socket, TCPSocketListener } from "bun"

export interface NetworkOptions {
  /** Added to each direction. */
  readonly delayMs?: number
  /** Most bytes passed on at a time; default: as they come. */
  readonly pieceBytes?: number
  /** Breaks every connection once so many bytes went from the client to the server. */
  readonly breakAfterBytes?: number
}

export interface Network extends Disposable {
  /** `127.0.0.1:port`; what connects there reaches the server. */
  readonly endpoint: string
  /** Bytes from clients to the server so far. */
  readonly uploadedBytes: () => number
  /** Breaks all connections, with a reset. */
  readonly breakAll: () => void
  /** Passes nothing on from now on; the connections stay. */
  readonly stall: () => void
}

/** One direction of one connection: passes bytes on in order, each not before its time. */
class Line {
  readonly #options: NetworkOptions
  readonly #target: () => Socket<unknown> | undefined
  #waiting: Uint8Array[] = []
  isStalled = false

  constructor(options: NetworkOptions, target: () => Socket<unknown> | undefined) {
    this.#options = options
    this.#target = target
  }

  push(bytes: Uint8Array): void {
    const copy = Uint8Array.from(bytes)
    const { delayMs } = this.#options
    if (delayMs === undefined) this.#enqueue(copy)
    else setTimeout(() => this.#enqueue(copy), delayMs)
  }

  #enqueue(bytes: Uint8Array): void {
    const size = this.#options.pieceBytes ?? bytes.length
    for (let at = 0; at < bytes.length; at += size) {
      this.#waiting.push(bytes.subarray(at, at + size))
    }
    this.drain()
  }

  drain(): void {
    const target = this.#target()
    while (!this.isStalled && target !== undefined && this.#waiting.length > 0) {
      const bytes = this.#waiting[0]!
      const written = Math.max(0, target.write(bytes))
      if (this.#options.pieceBytes !== undefined) target.flush()
      if (written < bytes.length) {
        this.#waiting[0] = bytes.subarray(written)
        return
      }
      this.#waiting.shift()
    }
  }
}

class Connection {
  readonly client: Socket<Connection>
  server: Socket<Connection> | undefined
  readonly up: Line
  readonly down: Line

  constructor(client: Socket<Connection>, options: NetworkOptions) {
    this.client = client
    this.up = new Line(options, () => this.server)
    this.down = new Line(options, () => this.client)
  }

  break(): void {
    this.client.terminate()
    this.server?.terminate()
  }
}

/** Starts a relay to a port of this machine. */
export const startNetwork = (port: number, options: NetworkOptions = {}): Network => {
  const connections = new Set<Connection>()
  let uploadedBytes = 0
  let isStalled = false
  const end = (connection: Connection | undefined): void => {
    if (connection === undefined) return
    connections.delete(connection)
    connection.client.end()
    connection.server?.end()
  }
  const connect = (connection: Connection): void => {
    void Bun.connect<Connection>({
      hostname: "127.0.0.1",
      port,
      data: connection,
      socket: {
        open(server) {
          connection.server = server
          server.setNoDelay(true)
          connection.up.drain()
        },
        data: (_server, bytes) => connection.down.push(bytes),
        drain: () => connection.up.drain(),
        close: () => end(connection),
        error: () => end(connection),
      },
    }).catch(() => connection.break())
  }
  const listener: TCPSocketListener<Connection> = Bun.listen<Connection>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(client) {
        const connection = new Connection(client, options)
        connection.up.isStalled = connection.down.isStalled = isStalled
        client.data = connection
        client.setNoDelay(true)
        connections.add(connection)
        connect(connection)
      },
      data(client, bytes) {
        uploadedBytes += bytes.length
        if (uploadedBytes > (options.breakAfterBytes ?? Number.POSITIVE_INFINITY)) {
          client.data.break()
        } else {
          client.data.up.push(bytes)
        }
      },
      drain: (client) => client.data.down.drain(),
      close: (client) => end(client.data),
      error: (client) => end(client.data),
    },
  })
  const breakAll = (): void => {
    for (const connection of connections) connection.break()
    connections.clear()
  }
  return {
    endpoint: `127.0.0.1:${listener.port}`,
    uploadedBytes: () => uploadedBytes,
    breakAll,
    stall: () => {
      isStalled = true
      for (const { up, down } of connections) up.isStalled = down.isStalled = true
    },
    [Symbol.dispose]: () => {
      breakAll()
      listener.stop(true)
    },
  }
}
