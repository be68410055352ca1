import pytest
pytestmark = [pytest.mark.integration, pytest.mark.asyncio]
async def test_x(controller) -> None:
    async with controller() as site:
        t = await site.tenant()
        print(await site.execute(t, "return 1"))
        async with site.spinning(t) as e:
            print(e.kernel)
        print(site.events(e))
