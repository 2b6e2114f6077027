/** The job that tests share with the processes they start. */
import { Job } from "jobsd"

export const Work = Job.make("Work")
