/** Ids rise within a process, whatever its clock does. */
import { assert, describe, it } from "@effect/vitest"
import { isUuid, uuidv7 } from "../src/internal/uuid.js"

const millisOf = (id: string) => Number.parseInt(id.replace("-", "").slice(0, 12), 16)
const rising = (ids: ReadonlyArray<string>) => ids.every((id, i) => i === 0 || ids[i - 1]! < id)

describe("ids", () => {
  it("are UUIDs of version 7 with their millisecond", () => {
    const now = Date.now() + 60_000
    const id = uuidv7(now)
    assert.isTrue(isUuid(id))
    assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
    assert.strictEqual(millisOf(id), now)
  })

  it("rise within a millisecond, however many it has", () => {
    const now = Date.now() + 120_000
    const ids = Array.from({ length: 20_000 }, () => uuidv7(now))
    assert.isTrue(rising(ids))
    assert.strictEqual(new Set(ids.map((id) => id.slice(19))).size, ids.length)
    // a few milliseconds ahead, not more
    assert.isBelow(millisOf(ids.at(-1)!), now + 12)
  })

  it("go on when the clock is set back a little, and begin again when it is set back by far", () => {
    const now = Date.now() + 180_000
    assert.isTrue(rising([uuidv7(now), uuidv7(now - 5000), uuidv7(now - 1), uuidv7(now + 1)]))
    assert.strictEqual(millisOf(uuidv7(now - 3_600_000)), now - 3_600_000)
  })
})
