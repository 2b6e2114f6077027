/**
 * The jobs, the schedules, the instance and what can go wrong.
 *
 * @since 0.1.0
 */

/**
 * Words about one instance.
 *
 * @since 0.1.0
 */
export * as Instance from "./Instance.js"
/**
 * What a job is: name, schemas, policy, handler.
 *
 * @since 0.1.0
 */
export * as Job from "./Job.js"
/**
 * Named rules for the next moment.
 *
 * @since 0.1.0
 */
export * as JobSchedule from "./JobSchedule.js"
/**
 * The service and its layers.
 *
 * @since 0.1.0
 */
export * as Jobsd from "./Jobsd.js"
/**
 * The errors.
 *
 * @since 0.1.0
 */
export * as JobsdError from "./JobsdError.js"
/**
 * The metrics.
 *
 * @since 0.1.0
 */
export * as JobsdMetrics from "./JobsdMetrics.js"
/**
 * Words about one run.
 *
 * @since 0.1.0
 */
export * as Run from "./Run.js"
