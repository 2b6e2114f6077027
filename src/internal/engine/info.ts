/** What a handler is told of its run. Moments are made when they are asked for: most handlers ask for none, and five cost 2 us. */
import * as Duration from "effect/Duration"
import type { InstanceId } from "../../Instance.js"
import type { RunInfo } from "../../Run.js"
import { momentOf } from "../moment.js"
import { attemptOf, type ClaimedRun } from "../storage/runRow.js"

const unlimited = (limit: number | null) => limit ?? Number.POSITIVE_INFINITY

export class Info<Payload> implements RunInfo<Payload> {
  readonly #run: ClaimedRun
  readonly #startedAt: number
  readonly payload: Payload
  readonly startedBy: InstanceId

  constructor(run: ClaimedRun, payload: Payload, startedAt: number, startedBy: InstanceId) {
    this.#run = run
    this.#startedAt = startedAt
    this.payload = payload
    this.startedBy = startedBy
  }

  get id() {
    return this.#run.id
  }
  get originId() {
    return this.#run.originId
  }
  get name() {
    return this.#run.name
  }
  get job() {
    return this.#run.job
  }
  get queue() {
    return this.#run.queue
  }
  get schedule() {
    return this.#run.schedule
  }
  get attempt() {
    return attemptOf(this.#run)
  }
  get occurrence() {
    return this.#run.occurrence
  }
  get runAt() {
    return momentOf(this.#run.runAt)
  }
  get startedAt() {
    return momentOf(this.#startedAt)
  }
  get successCount() {
    return this.#run.successCount
  }
  get successLimit() {
    return this.#run.successLimit
  }
  get timeout() {
    const { timeoutMillis } = this.#run
    return timeoutMillis === null ? Duration.infinity : Duration.millis(timeoutMillis)
  }
  get timeoutAt() {
    const { timeoutMillis } = this.#run
    return timeoutMillis === null ? null : momentOf(this.#startedAt + timeoutMillis)
  }
  get retriesOnErrorCount() {
    return this.#run.errors
  }
  get retriesOnErrorLimit() {
    return unlimited(this.#run.maxErrors)
  }
  get retriesOnTimeoutCount() {
    return this.#run.timeouts
  }
  get retriesOnTimeoutLimit() {
    return unlimited(this.#run.maxTimeouts)
  }
  get crashCount() {
    return this.#run.crashes
  }
  get retriesOnCrashLimit() {
    return unlimited(this.#run.maxCrashes)
  }
  get createdAt() {
    return momentOf(this.#run.createdAt)
  }
  get createdBy() {
    return this.#run.createdBy
  }
}
