"""Resolves rooms of version 1 with Synapse's resolver.

Reads one JSON object per line from standard input, with `events` (PDUs with `event_id`) and
`states` (lists of [type, state key, event ID]), and writes the resolved state as such a list.
"""

import asyncio
import json
import sys

import synapse.event_auth  # Breaks a circular import.
from synapse.api.room_versions import RoomVersions
from synapse.events import make_event_from_dict
from synapse.state.v1 import resolve_events_with_store


async def resolve(room):
    events = {
        event["event_id"]: make_event_from_dict(event, RoomVersions.V1) for event in room["events"]
    }
    states = [{(kind, key): event for kind, key, event in state} for state in room["states"]]

    async def fetch(ids):
        return {event_id: events[event_id] for event_id in ids}

    resolved = await resolve_events_with_store(
        room["room_id"], RoomVersions.V1, states, None, fetch
    )
    return sorted([kind, key, event] for (kind, key), event in resolved.items())


for line in sys.stdin:
    print(json.dumps(asyncio.run(resolve(json.loads(line)))), flush=True)
