/** Real processes on one database, and real kills. */
import { assert } from "@effect/vitest"
import { Effect } from "effect"
import { onEveryDatabase, Target } from "./support/databases.js"
import { startWorker } from "./support/processes.js"
import { Work } from "./support/work.js"
import { eventually, makeWorld } from "./support/world.js"

onEveryDatabase("several processes", (it) => {
  it.scoped(
    "share the runs; when one is killed, the others finish what it had, and nothing is lost or run for nothing",
    () =>
      Effect.gen(function* () {
        const world = yield* makeWorld
        const { url } = yield* Target
        yield* world.migrate
        const client = yield* world.client()
        const workers = yield* Effect.replicateEffect(startWorker(url, world.prefix, 300), 3, { concurrency: 2 })
        const ids = yield* Effect.replicateEffect(client.createRun(Work, undefined), 36)
        const [victim, ...others] = workers
        yield* eventually(
          Effect.sync(() => victim!.said("start")),
          (started) => started.length > victim!.said("end").length
        )
        victim!.kill("SIGKILL")
        yield* victim!.exited
        yield* eventually(world.rows("runs", "WHERE state = 2"), (done) => done.length === ids.length, "20 seconds")

        const ended = workers.flatMap((worker) => worker.said("end"))
        assert.sameMembers([...new Set(ended)], ids)
        // what ran twice was running in the victim when it died
        const died = victim!.said("start").filter((id) => !victim!.said("end").includes(id))
        assert.isNotEmpty(died)
        const crashed = yield* world.rows("runs", "WHERE crashes > 0")
        for (const id of died) assert.isTrue(crashed.some((row) => row.id === id))
        const seen = new Map<string, number>()
        for (const id of workers.flatMap((worker) => worker.said("start"))) seen.set(id, (seen.get(id) ?? 0) + 1)
        for (const [id, times] of seen) {
          assert.strictEqual(times, crashed.some((row) => row.id === id) ? (died.includes(id) ? 2 : times) : 1, id)
        }
        assert.lengthOf(yield* world.rows("attempts", "WHERE outcome = 'crash'"), crashed.length)
        assert.lengthOf(yield* world.rows("instances", "WHERE state = 3"), 1)

        // the others leave in good order
        for (const worker of others) worker.kill("SIGTERM")
        yield* Effect.forEach(others, (worker) => worker.exited)
        assert.lengthOf(yield* world.rows("instances", "WHERE state = 2"), 2)
      }),
    // three processes to start, and a lease to run out
    60_000
  )
})
