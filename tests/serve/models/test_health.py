import asyncio

from serve.models.health import NOT_SERVING, SERVER, SERVICE_UNKNOWN, SERVING, Health


async def take(health: Health, name: str, into: list[int]) -> None:
    into.extend([status async for status in health.watch(name)])


def test_the_server_serves_once_every_model_does() -> None:
    async def story() -> None:
        health = Health(["a", "b"])
        assert health.status("a") == health.status(SERVER) == NOT_SERVING
        health.set_serving("a")
        assert health.is_serving("a")
        assert not health.is_serving(SERVER)
        health.set_serving("b")
        assert health.is_serving(SERVER)
        assert health.status("c") is None

    asyncio.run(story())


def test_a_watch_reports_every_change_once_and_ends_with_the_server() -> None:
    async def story() -> tuple[list[int], list[int]]:
        health = Health(["a", "b"])
        seen: list[int] = []
        unknown: list[int] = []
        watches = asyncio.gather(take(health, "a", seen), take(health, "x", unknown))
        for change in (lambda: health.set_serving("b"), lambda: health.set_serving("a"), health.close):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            change()
        await asyncio.wait_for(watches, timeout=5)
        return seen, unknown

    seen, unknown = asyncio.run(story())
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]
    assert unknown == [SERVICE_UNKNOWN]


def test_a_closed_server_never_serves_again() -> None:
    async def story() -> None:
        health = Health(["a"])
        health.close()
        health.set_serving("a")
        assert health.status("a") == NOT_SERVING

    asyncio.run(story())
