/** Items that belong to keys, which take turns: however many a key has, the next one is of another key. */
export class FairQueue<T> {
  /** In the order of their turns; no list is empty. */
  readonly #byKey = new Map<string, T[]>()
  #size = 0

  get size(): number {
    return this.#size
  }

  /** Keys that have items, in the order of their turns. */
  get keys(): IterableIterator<string> {
    return this.#byKey.keys()
  }

  itemsOf(key: string): readonly T[] {
    return this.#byKey.get(key) ?? []
  }

  add(key: string, item: T): void {
    const items = this.#byKey.get(key)
    if (items === undefined) this.#byKey.set(key, [item])
    else items.push(item)
    this.#size++
  }

  /** Takes the oldest item of the first key that `may`; that key's next turn comes after all others. */
  take(may: (key: string) => boolean = () => true): T | undefined {
    for (const [key, items] of this.#byKey) {
      if (!may(key)) continue
      const item = items.shift()!
      this.#size--
      this.#byKey.delete(key)
      if (items.length > 0) this.#byKey.set(key, items)
      return item
    }
    return undefined
  }

  /** Takes an item out of its turn. */
  remove(key: string, item: T): void {
    const items = this.#byKey.get(key)
    const at = items?.indexOf(item) ?? -1
    if (items === undefined || at < 0) return
    items.splice(at, 1)
    this.#size--
    if (items.length === 0) this.#byKey.delete(key)
  }

  /** The key that has most items; undefined when there is none. */
  get longest(): string | undefined {
    let longest: string | undefined
    for (const [key, items] of this.#byKey) {
      if (longest === undefined || items.length > this.itemsOf(longest).length) longest = key
    }
    return longest
  }
}
