"""What each user of deploy/nats/users.conf may do, at the real server: everything else is refused and counted."""

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy, StreamSource
from nats.js.errors import NotFoundError
from pydantic_settings import SettingsConfigDict

from icestream.errors import BrokerUnavailable, IceStreamError, Misconfigured
from icestream.runtime.certificates import CertificateAuthority
from icestream.runtime.deadletters import DeadLetter, DeadLetterBox, DeadLetterWriter
from icestream.runtime.jetstream.checkpoints import open_checkpoints
from icestream.runtime.jetstream.connection import Connection, Credentials, connect
from icestream.runtime.jetstream.follower import StreamFollower
from icestream.runtime.jetstream.login import tls_to
from icestream.runtime.jetstream.objects import PulseObjects
from icestream.runtime.jetstream.publisher import WindowedPublisher
from icestream.runtime.jetstream.rights import rights_of
from icestream.runtime.jetstream.scan_topology import Lane, ScanNames, scan_log_stream, scan_work_stream
from icestream.runtime.jetstream.scan_topology import scan_worker_consumer as worker_consumer
from icestream.runtime.jetstream.stored import stored_messages
from icestream.runtime.jetstream.topology import (
    RECORDER_CONSUMER,
    Names,
    dead_letter_stream,
    events_stream,
    reconcile_consumer,
    reconcile_stream,
    reconstructions_stream,
    router_consumer,
    shared_consumer,
)
from icestream.runtime.nkey_pairs import new_seed, public_key
from icestream.runtime.secret_files import NATS_USERS, nkey_variable
from icestream.runtime.service import service_frame
from icestream.runtime.settings import ServiceSettings
from services.emitter.checkpoints import Checkpoints
from services.emitter.progress import Checkpoint
from tests.support.eventually import eventually
from tests.support.nats_server import NatsServer, running_nats_server
from tests.support.secure_nats import SecureNats, running_secure_nats

NAMES = Names()
SCANS = ScanNames(NAMES)
EVENT = "icestream.events.ic86.test"
ANSWER = "icestream.reconstructions.ic86.direction"
RESULT = "icestream.scans.log.s1.result"
WORK = "icestream.scans.work.alert.s1"
LARGE = bytes(range(256)) * 1200
REPOSITORY = Path(__file__).resolve().parents[3]


def consumer(stream: str, **config: object) -> bytes:
    """The request for a consumer that comes and goes."""
    short = {"ack_policy": "none", "inactive_threshold": 10**9, "mem_storage": True}
    return json.dumps({"stream_name": stream, "config": short | config}).encode()


STREAMS = ("EVENTS", "RECONSTRUCTIONS", "DEADLETTER", "SCANS", "SCANWORK", "OBJ_icestream-pulses")

REQUESTS: Mapping[str, tuple[str, bytes]] = {
    "publish events": (EVENT, b"event"),
    "publish reconstructions": (ANSWER, b"answer"),
    "publish results of scans": (RESULT, b"result"),
    "publish ends of scans": ("icestream.scans.log.s1.ended", b"end"),
    "publish requests for scans": ("icestream.scans.log.s1.accepted", b"request"),
    "publish work of scans": (WORK, b"work"),
    "bury as an emitter": ("icestream.deadletter.emitter", b"letter"),
    "bury as a router": ("icestream.deadletter.router", b"letter"),
    "see any event": ("$JS.API.DIRECT.GET.EVENTS", b'{"seq": 1}'),
    "see the newest event": (f"$JS.API.DIRECT.GET.EVENTS.{EVENT}", b""),
    "ask the leader for an event": ("$JS.API.STREAM.MSG.GET.EVENTS", b'{"seq": 1}'),
    "take events from the router": ("$JS.API.CONSUMER.MSG.NEXT.EVENTS.router", b'{"batch":1,"no_wait":true}'),
    "read events": ("$JS.API.CONSUMER.CREATE.EVENTS", consumer("EVENTS")),
    "read events under a name": ("$JS.API.CONSUMER.CREATE.EVENTS.mine", consumer("EVENTS", name="mine")),
    "read reconstructions": ("$JS.API.CONSUMER.CREATE.RECONSTRUCTIONS", consumer("RECONSTRUCTIONS")),
    "read results of scans": (
        "$JS.API.CONSUMER.CREATE.SCANS.mine.icestream.scans.log.*.result",
        consumer("SCANS", name="mine", filter_subject="icestream.scans.log.*.result"),
    ),
    "read logs of scans": ("$JS.API.CONSUMER.CREATE.SCANS", consumer("SCANS")),
    "read work of scans": ("$JS.API.CONSUMER.CREATE.SCANWORK", consumer("SCANWORK", filter_subject="none")),
    "read dead letters": ("$JS.API.CONSUMER.CREATE.DEADLETTER", consumer("DEADLETTER")),
    "take records": (
        "$JS.API.CONSUMER.MSG.NEXT.RECONSTRUCTIONS.recorder",
        b'{"batch":1,"no_wait":true}',
    ),
    "see pulses": ("$JS.API.DIRECT.GET.OBJ_icestream-pulses", b'{"seq": 1}'),
    "see chunks of pulses": (
        "$JS.API.DIRECT.GET.OBJ_icestream-pulses.$O.icestream-pulses.C.any",
        b"",
    ),
    "ask the leader for pulses": ("$JS.API.STREAM.MSG.GET.OBJ_icestream-pulses", b'{"seq": 1}'),
    "forget a dead letter": ("$JS.API.STREAM.MSG.DELETE.DEADLETTER", b'{"seq": 9999}'),
    "empty the queue of scans": (
        "$JS.API.STREAM.PURGE.SCANWORK",
        b'{"filter":"icestream.scans.work.alert.none"}',
    ),
    "make a stream that copies events": (
        "$JS.API.STREAM.CREATE.KV_icestream-other",
        b'{"name":"KV_icestream-other","subjects":["$KV.icestream-other.>"],"sources":[{"name":"EVENTS"}]}',
    ),
    "list streams": ("$JS.API.STREAM.NAMES", b""),
    **{f"delete {name}": (f"$JS.API.STREAM.DELETE.{name}", b"") for name in STREAMS},
    **{f"restore {name}": (f"$JS.API.STREAM.RESTORE.{name}", b"") for name in STREAMS},
    **{f"snapshot {name}": (f"$JS.API.STREAM.SNAPSHOT.{name}", b"") for name in STREAMS},
    **{f"purge {name}": (f"$JS.API.STREAM.PURGE.{name}", b"") for name in STREAMS if name != "SCANWORK"},
    "delete an event": ("$JS.API.STREAM.MSG.DELETE.EVENTS", b'{"seq": 1}'),
    "delete the router's consumer": ("$JS.API.CONSUMER.DELETE.EVENTS.router", b""),
    "delete the recorder's consumer": ("$JS.API.CONSUMER.DELETE.RECONSTRUCTIONS.recorder", b""),
    "change the recorder's consumer": (
        "$JS.API.CONSUMER.CREATE.RECONSTRUCTIONS.recorder.icestream.reconstructions.none.*",
        b"{}",
    ),
}
"""By subject and payload; whoever may do it gets an answer."""

UPDATES = {
    f"change {name}": name for name in ("EVENTS", "RECONSTRUCTIONS", "DEADLETTER", "SCANS", "SCANWORK")
}
"""Requests to change a stream, with the settings that it has."""

SUBSCRIPTIONS = {
    "hear everything": ">",
    "hear events": "icestream.events.>",
    "hear reconstructions": "icestream.reconstructions.>",
    "hear results of scans": "icestream.scans.log.*.result",
    "hear requests for scans": "icestream.scans.log.*.accepted",
    "hear heartbeats": "icestream.heartbeats.>",
    "hear answers to others": "_INBOX.>",
    "hear answers to routers": "_INBOX_router.>",
    "hear requests to JetStream": "$JS.API.>",
    "hear the system": "$SYS.>",
}

MAY = {
    "emitter": {"publish events", "bury as an emitter"},
    "router": {
        *("publish reconstructions", "bury as a router", "take events from the router", "see pulses"),
        *("see chunks of pulses", "change EVENTS", "change RECONSTRUCTIONS", "change DEADLETTER"),
        "hear answers to routers",
    },
    "scanner": {
        *("publish requests for scans", "publish ends of scans", "publish work of scans"),
        *("see any event", "read events", "read logs of scans", "see pulses", "see chunks of pulses"),
        *("empty the queue of scans", "change SCANS", "change SCANWORK", "list streams"),
    },
    "scan-worker": {"publish results of scans", "publish work of scans"},
    "recorder": {"take records"},
    "nats-exporter": {"see any event"},
    "operator": {
        *("publish events", "publish reconstructions", "publish work of scans", "publish ends of scans"),
        *("see any event", "see the newest event", "see pulses", "see chunks of pulses", "read events"),
        *("read reconstructions", "read logs of scans", "read dead letters", "forget a dead letter"),
        *("list streams", "hear events", "hear reconstructions", "hear results of scans"),
        *("hear requests for scans", "hear heartbeats"),
    },
    "subscriber": {
        *("read reconstructions", "read results of scans", "list streams"),
        *("hear reconstructions", "hear results of scans"),
    },
    "stream-replicas": {"make a stream that copies events", *UPDATES},
}


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureNats]:
    with running_secure_nats(tmp_path_factory.mktemp("secure")) as server:
        asyncio.run(make_everything(server))
        yield server


async def make_everything(server: SecureNats) -> None:
    """What services make at their start, each as the user that it is."""
    async with AsyncExitStack() as stack:
        router, scanner, worker, recorder, emitter = [
            await stack.enter_async_context(server.logged_in(user))
            for user in ("router", "scanner", "scan-worker", "recorder", "emitter")
        ]
        async with asyncio.TaskGroup() as group:
            # Those that may make nothing come first, and wait.
            group.create_task(make_as_emitter(emitter))
            group.create_task(make_as_recorder(recorder))
            group.create_task(make_as_worker(worker))
            group.create_task(make_as_scanner(scanner))
            group.create_task(make_as_router(router))
        n_violations = [each.n_permission_violations for each in (router, scanner, worker, recorder, emitter)]
        assert n_violations == [0] * 5


async def make_as_router(connection: Connection) -> None:
    for stream in (events_stream(NAMES), reconstructions_stream(NAMES), dead_letter_stream(NAMES)):
        await reconcile_stream(connection, stream)
    await open_checkpoints(connection, NAMES)
    await reconcile_consumer(connection, NAMES.events_stream, router_consumer())
    await PulseObjects.open(connection, NAMES.pulses_bucket)


async def make_as_scanner(connection: Connection) -> None:
    for stream in (scan_log_stream(SCANS), scan_work_stream(SCANS), events_stream(NAMES)):
        await reconcile_stream(connection, stream)
    await PulseObjects.open(connection, NAMES.pulses_bucket)
    await PulseObjects.open(connection, SCANS.startup_bucket)


async def make_as_worker(connection: Connection) -> None:
    for stream in (scan_log_stream(SCANS), scan_work_stream(SCANS), dead_letter_stream(NAMES)):
        await reconcile_stream(connection, stream)
    for lane in Lane:
        await reconcile_consumer(connection, SCANS.work_stream, worker_consumer(SCANS, lane))
    await PulseObjects.open(connection, SCANS.startup_bucket)


async def make_as_recorder(connection: Connection) -> None:
    streams = reconstructions_stream(NAMES), dead_letter_stream(NAMES), scan_log_stream(SCANS)
    for stream in streams:
        await reconcile_stream(connection, stream)
        await reconcile_consumer(connection, str(stream.name), shared_consumer(RECORDER_CONSUMER))


async def make_as_emitter(connection: Connection) -> None:
    for stream in (events_stream(NAMES), dead_letter_stream(NAMES)):
        await reconcile_stream(connection, stream)
    await PulseObjects.open(connection, NAMES.pulses_bucket)
    await open_checkpoints(connection, NAMES)


@pytest.fixture(params=sorted(NATS_USERS))
async def user(request: pytest.FixtureRequest, secure: SecureNats) -> AsyncIterator[tuple[str, Connection]]:
    async with secure.logged_in(request.param) as connection:
        yield request.param, connection


async def is_answered(connection: Connection, subject: str, payload: bytes) -> bool:
    """Whether the server answers; otherwise it has refused, and that was counted."""
    answers, n_before = list[Msg](), connection.n_permission_violations

    async def on_answer(message: Msg) -> None:
        answers.append(message)

    # Not the client's `request`, which loses messages of a stream: they keep their subjects.
    inbox = connection.client.new_inbox()
    subscription = await connection.client.subscribe(inbox, cb=on_answer)
    await connection.client.publish(subject, payload, reply=inbox)
    await eventually(lambda: bool(answers) or connection.n_permission_violations > n_before)
    await subscription.unsubscribe()
    return bool(answers)


async def is_heard(connection: Connection, subject: str) -> bool:
    n_before = connection.n_permission_violations
    subscription = await connection.client.subscribe(subject)
    # Once this is answered, a refusal would be here.
    await connection.client.request("$SYS.REQ.USER.INFO")
    if connection.n_permission_violations > n_before:
        return False
    await subscription.unsubscribe()
    return True


async def test_every_user_may_do_what_its_service_does_and_nothing_else(
    user: tuple[str, Connection], secure: SecureNats
) -> None:
    name, connection = user
    done = {
        what
        for what, (subject, payload) in REQUESTS.items()
        if await is_answered(connection, subject, payload)
    }
    async with secure.logged_in("stream-replicas") as replicas:
        for what, stream in UPDATES.items():
            config = (await replicas.client.jetstream().stream_info(stream)).config
            request = json.dumps(config.as_dict()).encode()
            if await is_answered(connection, f"$JS.API.STREAM.UPDATE.{stream}", request):
                done.add(what)
    done |= {what for what, subject in SUBSCRIPTIONS.items() if await is_heard(connection, subject)}

    assert done == MAY[name]
    n_all = len(REQUESTS) + len(UPDATES) + len(SUBSCRIPTIONS)
    assert connection.n_permission_violations == n_all - len(done)
    assert connection.is_connected


async def test_a_subscriber_follows_reconstructions_and_results_of_scans(secure: SecureNats) -> None:
    async with secure.logged_in("router") as router, secure.logged_in("scan-worker") as worker:
        await router.client.jetstream().publish(ANSWER, b"for subscribers")
        await worker.client.jetstream().publish(RESULT, b"fit")
    async with secure.logged_in("subscriber") as connection:
        stored = [message.payload async for message in stored_messages(connection, f"{ANSWER[:-9]}>")]
        follower = StreamFollower(connection, stream="RECONSTRUCTIONS", subject=ANSWER, after_sequence=0)
        async with follower:
            followed = await follower.next_batch(10, 10.0)
        # A consumer with a name and one filter, as clients of other languages make it.
        subscription = await connection.client.jetstream().subscribe(
            "icestream.scans.log.*.result",
            stream="SCANS",
            ordered_consumer=True,
            config=ConsumerConfig(name="mine-too", deliver_policy=DeliverPolicy.ALL),
        )
        result = await subscription.next_msg(10)
        await subscription.unsubscribe()

        assert b"for subscribers" in stored
        assert followed
        assert result.subject == RESULT
        assert connection.n_permission_violations == 0


async def test_a_subscriber_cannot_take_over_the_recorders_consumer(secure: SecureNats) -> None:
    """A request without a name in its subject might still have one in its content."""
    async with secure.logged_in("recorder") as recorder, secure.logged_in("subscriber") as connection:
        js = recorder.client.jetstream()
        before = (await js.consumer_info("RECONSTRUCTIONS", "recorder")).config
        for stolen in ({"durable_name": "recorder"}, {"name": "recorder"}):
            request = consumer("RECONSTRUCTIONS", filter_subject=ANSWER, **stolen)
            answer = await connection.client.request("$JS.API.CONSUMER.CREATE.RECONSTRUCTIONS", request)
            assert json.loads(answer.data).get("error") or json.loads(answer.data)["name"] != "recorder"
        assert (await js.consumer_info("RECONSTRUCTIONS", "recorder")).config == before


async def test_an_emitter_stores_large_events_that_the_router_reads(secure: SecureNats) -> None:
    async with secure.logged_in("emitter") as emitter, secure.logged_in("router") as router:
        name = await (await PulseObjects.open(emitter, NAMES.pulses_bucket)).put(LARGE)
        again = await (await PulseObjects.open(emitter, NAMES.pulses_bucket)).put(LARGE)
        got = await (await PulseObjects.open(router, NAMES.pulses_bucket)).get(name)
        assert (again, got) == (name, LARGE)
        assert emitter.n_permission_violations == router.n_permission_violations == 0


async def test_an_emitter_reads_its_checkpoint_in_a_bucket_that_others_made(secure: SecureNats) -> None:
    """NATS' own tools turn direct gets on, for which an emitter has no right."""
    async with secure.logged_in("stream-replicas") as replicas, secure.logged_in("emitter") as emitter:
        js = replicas.client.jetstream()
        config = (await js.stream_info(f"KV_{NAMES.checkpoints_bucket}")).config
        await js.update_stream(config.evolve(allow_direct=True))
        checkpoints = await Checkpoints.open(emitter, NAMES, "ic86", "large")
        await checkpoints.save(Checkpoint(position=7, sequence=8), "fingerprint")
        assert await checkpoints.load("fingerprint") == Checkpoint(7, 8)
        assert emitter.n_permission_violations == 0


async def test_whoever_may_make_one_stream_can_read_every_other(tmp_path: Path) -> None:
    """Why emitters and scan workers make none; see docs/decisions/0009. Should this fail, they may."""
    rights = ["$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.MSG.GET.MINE"]
    users = [
        {"user": "any", "password": "any"},
        {"user": "maker", "password": "maker", "permissions": {"publish": rights}},
    ]
    config = f"authorization: {json.dumps({'users': users})}"
    with running_nats_server(tmp_path, extra_config=config) as server:
        async with (
            connect(server.url, name="any", credentials=Credentials(user="any", password="any")) as anybody,
            connect(
                server.url, name="maker", credentials=Credentials(user="maker", password="maker")
            ) as maker,
        ):
            await reconcile_stream(anybody, events_stream(NAMES))
            await anybody.client.jetstream().publish(EVENT, b"an event")
            js = maker.client.jetstream()
            await js.add_stream(name="MINE", sources=[StreamSource(name="EVENTS")])

            async def reads_the_event() -> bool:
                try:
                    return (await js.get_msg("MINE", seq=1)).data == b"an event"
                except NotFoundError:
                    return False

            await eventually(reads_the_event)


async def test_an_emitter_cannot_let_the_broker_do_for_it_what_it_may_not_do_itself(tmp_path: Path) -> None:
    """Nobody asks whether a user may publish to the subject that it wants its answer at; see docs/decisions/0009."""
    inbox, heard = "_INBOX_emitter.mine", list[Msg]()
    bodies = (
        *(b"", b"{}", b"{", b'{"seq": 1}', b'{"seq": 9999}', b'{"last_by_subj": "none"}'),
        *(consumer("EVENTS", deliver_subject=inbox), b'{"name": "MINE", "sources": [{"name": "EVENTS"}]}'),
    )
    headers: tuple[dict[str, str], ...] = (
        {},
        {"Nats-Required-Api-Level": "9999"},
        {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"},
    )
    with running_secure_nats(tmp_path) as server:
        await make_everything(server)
        async with (
            server.logged_in("emitter") as emitter,
            server.logged_in("router") as router,
            server.logged_in("operator") as operator,
        ):
            permitted = [some_subject(each) for each in (await rights_of(emitter)).allowed]
            for subject in permitted:
                await emitter.client.publish(subject, b"a secret event")
            await emitter.client.jetstream().publish(EVENT, b"another event")
            await router.client.jetstream().publish(ANSWER, b"an answer")
            before = await holdings(operator)
            await emitter.client.subscribe(inbox, cb=partial(_keep, heard))
            for body, reply, header in product(bodies, FORBIDDEN_REPLIES, headers):
                # Twice, because what is stored by one may be asked for by another.
                for subject in (*permitted, *permitted):
                    await emitter.client.publish(subject, body, reply=reply, headers=header)
                # Answers come in the order of requests: once this is here, so are the others.
                await emitter.client.jetstream().publish(EVENT, b"another event")
                assert await holdings(operator) == before, (body, reply, header)
            assert heard == []
            assert emitter.n_permission_violations == 0


FORBIDDEN_REPLIES = (
    "$JS.API.STREAM.DELETE.EVENTS",
    "$JS.API.STREAM.PURGE.EVENTS",
    "$JS.API.STREAM.PURGE.RECONSTRUCTIONS",
    "$JS.API.STREAM.UPDATE.EVENTS",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.RESTORE.MINE",
    "$JS.API.STREAM.MSG.DELETE.EVENTS",
    "$JS.API.CONSUMER.CREATE.EVENTS",
    "$JS.API.CONSUMER.DELETE.EVENTS.router",
    "$JS.API.CONSUMER.PAUSE.EVENTS.router",
    "$JS.API.CONSUMER.RESET.EVENTS.router",
)


def some_subject(pattern: str) -> str:
    """A subject that the pattern allows."""
    return pattern.replace("*", "x").replace(">", "x")


async def holdings(connection: Connection) -> Mapping[str, object]:
    """What could be lost or made: streams, their oldest message and what was deleted, and their consumers."""
    js = connection.client.jetstream()
    return {
        str(stream.config.name): (
            stream.config,
            # A bucket of checkpoints keeps the newest of each key.
            stream.config.max_msgs_per_subject == 1 or (stream.state.first_seq, stream.state.num_deleted),
            [(each.config, each.delivered) for each in await js.consumers_info(str(stream.config.name))],
        )
        for stream in await js.streams_info()
    }


async def _keep(heard: list[Msg], message: Msg) -> None:
    heard.append(message)


async def test_a_service_knows_what_it_may_do(secure: SecureNats) -> None:
    async with secure.logged_in("emitter") as emitter, secure.logged_in("scanner") as scanner:
        of_emitter, of_scanner = await rights_of(emitter), await rights_of(scanner)
    assert of_emitter.may_publish(EVENT)
    assert not of_emitter.may_publish(ANSWER)
    assert not of_emitter.may_create_stream("EVENTS")
    assert not of_emitter.may_read("EVENTS")
    assert of_scanner.may_read("EVENTS")
    assert of_scanner.may_create_stream("SCANS")
    assert not of_scanner.may_update_stream("EVENTS")


async def test_who_may_not_change_a_stream_leaves_it_as_it_is(secure: SecureNats) -> None:
    odd = events_stream(NAMES).evolve(subjects=["icestream.events.>", "icestream.odd.>"])
    async with secure.logged_in("emitter") as emitter:
        drifts = await reconcile_stream(emitter, odd)
        config = (await emitter.client.jetstream().stream_info("EVENTS")).config
        assert [drift.field for drift in drifts] == ["subjects"]
        assert config.subjects == ["icestream.events.>"]
        assert emitter.n_permission_violations == 0


async def test_a_missing_stream_that_nobody_makes_is_reported_with_who_makes_it(secure: SecureNats) -> None:
    stream = reconstructions_stream(Names("nobodys"))
    async with secure.logged_in("stream-replicas") as replicas, secure.logged_in("operator") as operator:
        assert (await rights_of(replicas)).may_create_stream(str(stream.name))
        with pytest.raises(BrokerUnavailable, match=r"no stream nobodys_RECONSTR.*start the service"):
            await reconcile_stream(operator, stream, patience_s=0.3)
        assert operator.n_permission_violations == 0


async def test_an_operator_replays_what_a_router_buried(secure: SecureNats) -> None:
    letter = DeadLetter(
        *("router", "invalid_event", "no charge", 1),
        subject=EVENT,
        message_id="buried",
        event_id="",
        payload=b"x",
    )
    async with secure.logged_in("router") as router, WindowedPublisher(router) as publisher:
        await DeadLetterWriter(publisher, NAMES).write(letter)
    async with secure.logged_in("operator") as operator, WindowedPublisher(operator) as publisher:
        box = DeadLetterBox(operator, NAMES)
        (buried,) = [each async for each in box.letters() if each.letter.message_id == "buried"]
        await box.replay(buried, publisher)
        assert buried.sequence not in [each.sequence async for each in box.letters()]
        assert operator.n_permission_violations == 0


async def test_the_job_of_the_chart_has_all_rights_that_it_needs(secure: SecureNats) -> None:
    path = REPOSITORY / "deploy/helm/icestream/files/stream_replicas.py"
    spec = importlib.util.spec_from_file_location("stream_replicas", path)
    assert spec is not None
    assert spec.loader is not None
    job: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    async with secure.logged_in("stream-replicas") as connection:
        # A single server has no room for a second copy, and says so as an answer, not as a refusal of the user.
        with pytest.raises(IceStreamError, match="replicas"):
            await job.raise_replicas(connection, NAMES, 3)
        assert connection.n_permission_violations == 0


async def test_an_administrator_makes_what_an_emitter_needs_where_there_is_no_router(tmp_path: Path) -> None:
    """At the Pole, as docs/deployment.md says it."""
    with running_secure_nats(tmp_path) as server:
        settings = {
            "ICESTREAM_STREAMS_PREFIX": NAMES.prefix,
            "ICESTREAM_STREAMS_NATS_URL": server.url.replace("nats:", "tls:"),
            "ICESTREAM_STREAMS_NATS_SEED": str(server.seed("stream-replicas")),
            "ICESTREAM_STREAMS_NATS_CA": str(server.ca),
        }
        job = REPOSITORY / "deploy/helm/icestream/files/stream_replicas.py"
        made = await asyncio.create_subprocess_exec(sys.executable, str(job), "1", env=os.environ | settings)
        assert await made.wait() == 0
        async with server.logged_in("emitter") as emitter:
            await make_as_emitter(emitter)
            assert emitter.n_permission_violations == 0


async def test_a_seed_that_nats_does_not_know_is_refused(secure: SecureNats, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.seed"
    stranger.write_text(new_seed())
    with pytest.raises(BrokerUnavailable, match="Authorization Violation"):
        async with secure.logged_in("emitter", seed=stranger):
            pass


async def test_a_user_hears_no_answers_under_the_name_of_another(secure: SecureNats) -> None:
    async with secure.logged_in("router", seed=secure.seed("emitter")) as connection:
        with pytest.raises(TimeoutError):
            await connection.client.request("$SYS.REQ.USER.INFO", timeout=0.5)
        assert connection.n_permission_violations == 1


async def test_whoever_speaks_no_tls_is_refused(secure: SecureNats) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port)
    assert json.loads((await reader.readline()).removeprefix(b"INFO "))["tls_required"]
    seed = secure.seed("emitter").read_text().strip()
    writer.write(f'CONNECT {{"verbose":false,"nkey":"{public_key(seed)}"}}\r\nPING\r\n'.encode())
    try:
        answer = await reader.read()
    except ConnectionResetError:
        answer = b""
    assert b"PONG" not in answer
    writer.close()


async def test_a_server_without_tls_is_told_nothing_by_who_wants_tls(
    nats_server: NatsServer, secure: SecureNats
) -> None:
    with pytest.raises(BrokerUnavailable, match="the server offers no TLS"):
        async with connect(nats_server.url, name="t", tls=tls_to("", secure.ca, "ca"), timeout_s=1.0):
            pass


class ToySettings(ServiceSettings):
    """Settings of no service."""

    model_config = SettingsConfigDict(env_prefix="ICESTREAM_TOY_")


async def problem_of(settings: ToySettings) -> str:
    with pytest.raises((BrokerUnavailable, Misconfigured)) as failure:
        async with service_frame("emitter", settings, trace_ratio=0.0):
            pass
    return str(failure.value)


async def test_each_thing_that_is_wrong_is_told_with_its_setting(secure: SecureNats, tmp_path: Path) -> None:
    strange_ca, cut_off, stranger = (tmp_path / name for name in ("ca.crt", "cut.seed", "stranger.seed"))
    strange_ca.write_bytes(CertificateAuthority.create().certificate_pem)
    seed = secure.seed("emitter")
    cut_off.write_text(seed.read_text()[:20])
    stranger.write_text(new_seed())
    url, ca = secure.url, secure.ca

    problems = {
        "no seed": await problem_of(ToySettings(nats_url=url, nats_ca=ca)),
        "unknown seed": await problem_of(ToySettings(nats_url=url, nats_ca=ca, nats_seed=stranger)),
        "no seed file": await problem_of(ToySettings(nats_url=url, nats_ca=ca, nats_seed=tmp_path / "none")),
        "half a seed": await problem_of(ToySettings(nats_url=url, nats_ca=ca, nats_seed=cut_off)),
        "no seed in it": await problem_of(ToySettings(nats_url=url, nats_ca=ca, nats_seed=ca)),
        "another CA": await problem_of(ToySettings(nats_url=url, nats_ca=strange_ca, nats_seed=seed)),
        "the system's CAs": await problem_of(ToySettings(nats_url=url, nats_seed=seed)),
        "no CA in it": await problem_of(ToySettings(nats_url=url, nats_ca=seed, nats_seed=seed)),
        "no CA file": await problem_of(ToySettings(nats_url=url, nats_ca=tmp_path / "none", nats_seed=seed)),
    }

    wrong_seed = {"no seed", "unknown seed", "no seed file", "half a seed", "no seed in it"}
    for what, problem in problems.items():
        setting = (
            "nats-seed or ICESTREAM_TOY_NATS_SEED"
            if what in wrong_seed
            else "nats-ca or ICESTREAM_TOY_NATS_CA"
        )
        assert f"--{setting}" in problem, what
        assert seed.read_text().strip() not in problem
        assert "`icestream secrets create`" in problem or "give" in problem, what


async def test_a_service_logs_in_and_is_not_refused_anything(secure: SecureNats) -> None:
    settings = ToySettings(nats_url=secure.url, nats_ca=secure.ca, nats_seed=secure.seed("emitter"))
    async with secure.logged_in("operator") as operator:
        heard = await operator.client.subscribe("icestream.heartbeats.emitter.*")
        await operator.client.request("$SYS.REQ.USER.INFO")
        async with service_frame("emitter", settings, trace_ratio=0.0) as frame:
            await heard.next_msg(10)
            assert frame.connection.n_permission_violations == 0


async def test_a_key_is_replaced_while_others_go_on(tmp_path: Path) -> None:
    with running_secure_nats(tmp_path) as server:
        keys, new = server.secrets / "nats/nkeys.conf", tmp_path / "new.seed"
        new.write_text(new_seed())
        old_key, new_key = (
            public_key(server.seed("subscriber").read_text().strip()),
            public_key(new.read_text()),
        )
        async with server.logged_in("operator") as operator, server.logged_in("subscriber") as stolen:
            keys.write_text(keys.read_text().replace(old_key, new_key))
            server.reload()
            await eventually(lambda: not stolen.is_connected)
            async with server.logged_in("subscriber", seed=new) as renewed:
                assert renewed.is_connected
            with pytest.raises(BrokerUnavailable, match="Authorization Violation"):
                async with server.logged_in("subscriber"):
                    pass
            assert operator.n_reconnects == 0


def test_every_user_of_the_server_has_a_seed_and_the_other_way_round() -> None:
    text = (REPOSITORY / "deploy/nats/users.conf").read_text()
    assert {f"${nkey_variable(user)}" for user in NATS_USERS} == {
        word for word in text.split() if word.endswith("_NKEY") and word.startswith("$")
    }
