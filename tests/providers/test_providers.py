from __future__ import annotations

import pytest
from msgspec.structs import replace

from postfleet.providers import DEFAULT, LANES, PROFILES, Profile, Providers, lane, limit_key, parse_profiles

NAMED = [profile for profile in PROFILES if profile is not DEFAULT]


def named(*profiles: Profile) -> Providers:
    return Providers((*PROFILES, *profiles))


@pytest.mark.parametrize("profile", NAMED, ids=lambda profile: profile.name)
def test_every_profile_matches_its_sample_and_no_other(profile):
    """Each shipped profile is found by its own sample host, and by no other's."""
    assert Providers().of_host(profile.sample_mx) is profile
    alone = Providers((DEFAULT, profile))
    assert [each.name for each in NAMED if alone.of_host(each.sample_mx) is profile] == [profile.name]


@pytest.mark.parametrize("profile", NAMED, ids=lambda profile: profile.name)
def test_every_profile_names_a_sample_domain(profile):
    """A sample domain stands with each profile, and is that of one profile alone."""
    assert [each.name for each in NAMED if each.sample_domain == profile.sample_domain] == [profile.name]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_lane_exists(profile):
    """No shipped profile sends its Orders to a queue that nobody polls."""
    assert lane(profile, "site") in LANES


def test_the_providers_that_senders_meet():
    """The big mailbox providers and filters have profiles."""
    wanted = """default gmail microsoft office365 yahoo apple comcast gmx orange mail.ru qq netease mimecast proofpoint
        barracuda mail.com"""
    assert set(wanted.split()) <= {profile.name for profile in PROFILES}


def test_suffixes_match_whole_labels():
    """A name that merely ends in the same letters is somebody else's."""
    assert Providers().of_host("mx.notgoogle.com") is DEFAULT
    assert Providers().of_host("google.com").name == "gmail"


def test_longest_suffix_wins():
    """A more exact profile takes its hosts away from a wider one."""
    own = Profile(name="workspace", suffixes=("corp.google.com",))
    assert named(own).of_host("mx.corp.google.com") is own
    assert named(own).of_host("mx.l.google.com").name == "gmail"


def test_an_operators_profile_takes_a_shipped_suffix():
    """A later profile with a shipped suffix wins."""
    strict = Profile(name="strict", suffixes=("google.com",), connections=2, limits_per="provider")
    assert named(strict).of_host("aspmx.l.google.com").connections == 2


def test_a_site_belongs_to_the_provider_of_all_its_hosts():
    """Hosts of one provider make its site."""
    assert Providers().of_site(["aspmx.l.google.com", "alt1.aspmx.l.google.com"]).name == "gmail"


def test_a_mixed_site_belongs_to_nobody():
    """A stranger's host beside a provider's cannot spoil the provider's limits."""
    assert Providers().of_site(["aspmx.l.google.com", "mx.evil.example"]) is DEFAULT


def test_limit_keys():
    """Limits count per provider where its profile says so, else per site."""
    providers = Providers()
    assert limit_key(providers.of_host("aspmx.l.google.com"), "site") == "gmail"
    assert limit_key(providers.of_host("mta5.am0.yahoodns.net"), "site") == "site"


def test_the_tail_shares_lanes():
    """Sites without a profile spread over the shared lanes, each always in the same one."""
    lanes = {site: lane(DEFAULT, site) for site in ("a.example", "b.example", "c.example", "d.example")}
    assert set(lanes.values()) == {"tail-0", "tail-1"}
    assert lanes["a.example"] == lane(DEFAULT, "a.example") == "tail-0"


def test_an_operators_file_changes_a_profile_key_by_key():
    """What the file does not say of a shipped profile stays."""
    providers = Providers(parse_profiles("[profile.gmail]\nconnections = 3\n", "f"))
    assert providers.by_name["gmail"] == replace(Providers().by_name["gmail"], connections=3)


def test_an_operators_file_adds_profiles():
    """A new name is a new profile, with the keys' defaults, beside the shipped ones."""
    profiles = parse_profiles('[profile.cable]\nsuffixes = ["cable.example"]\nconnections = 4\n', "f")
    assert profiles == (*PROFILES, Profile(name="cable", suffixes=("cable.example",), connections=4))


def test_an_operator_sets_the_default():
    """The profile of all other sites can be changed too."""
    providers = Providers(parse_profiles("[profile.default]\nmessages_per_minute = 10\n", "f"))
    assert providers.of_host("mx.anybody.example").messages_per_minute == 10


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("profile = ", "providers.toml: Invalid value"),
        ("[[profile]]\nname = 'x'", r"providers.toml: profile: write \[profile.NAME\]"),
        ("[profile]\nx = 3", "providers.toml: profile.x: is 3, but must be a table"),
        ("[profiles.x]\nconnections = 3", "providers.toml: profiles: no such section"),
        ("[profile.x]\nlimit = 3", "providers.toml: profile.x: Object contains unknown field `limit`"),
        ("[profile.x]\nconnections = 0", "providers.toml: profile.x: connections: Expected `int` >= 1"),
        ("[profile.x]\ntls = 'maybe'", "providers.toml: profile.x: tls: Invalid enum value 'maybe'"),
        ("[profile.x]\nlane = 'fast'", "providers.toml: profile.x: lane: no lane 'fast'"),
        ("[profile.x]\nsuffixes = ['.A.example']", "providers.toml: profile.x: suffixes: '.A.example' must be lower"),
    ],
)
def test_a_bad_file_is_named(text, complaint):
    """The error says which file, which table and key, and what is wrong there."""
    with pytest.raises(ValueError, match=f"^{complaint}"):
        parse_profiles(text, "providers.toml")
