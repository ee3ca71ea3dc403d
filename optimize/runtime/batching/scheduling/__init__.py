"""The decisions of the scheduler, pure: who goes next, with whom, and what that costs by the latencies that export measured."""
