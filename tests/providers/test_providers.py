from __future__ import annotations

import pytest

from postfleet.providers import DEFAULT, LANES, PROFILES, Profile, Providers, lane, limit_key, parse_profiles


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_profile_matches_its_sample(profile):
    """Each shipped profile is found by its own sample host."""
    assert Providers().of_host(profile.sample_mx) is profile


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_lane_exists(profile):
    """No shipped profile sends its Orders to a queue that nobody polls."""
    assert profile.lane in LANES


def test_suffixes_match_whole_labels():
    """A name that merely ends in the same letters is somebody else's."""
    assert Providers().of_host("mx.notgoogle.com") is DEFAULT
    assert Providers().of_host("google.com").name == "gmail"


def test_longest_suffix_wins():
    """A more exact profile takes its hosts away from a wider one."""
    own = Profile(name="workspace", suffixes=("corp.google.com",))
    providers = Providers([own])
    assert providers.of_host("mx.corp.google.com") is own
    assert providers.of_host("mx.l.google.com").name == "gmail"


def test_an_operators_profile_replaces_a_shipped_suffix():
    """An extra profile with a shipped suffix wins."""
    strict = Profile(name="gmail", suffixes=("google.com",), connections=2, limits_per="provider")
    assert Providers([strict]).of_host("aspmx.l.google.com").connections == 2


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


def test_an_operators_file():
    """A file gives profiles with the fields' defaults."""
    text = '[[profile]]\nname = "cable"\nsuffixes = ["cable.example"]\nconnections = 4\n'
    assert parse_profiles(text, "f") == (Profile(name="cable", suffixes=("cable.example",), connections=4),)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[profile]]\nname = "x"\nlane = "fast"', "no lane 'fast'"),
        ('[[profile]]\nname = "x"\nlimit = 3', "limit"),
        ("[[profile]]\nlane = 'gmail'", "name"),
        ("profile = ", "Invalid value"),
    ],
)
def test_a_bad_file_is_named(text, complaint):
    """The error says which file and what is wrong in it."""
    with pytest.raises(ValueError, match=complaint) as error:
        parse_profiles(text, "providers.toml")
    assert str(error.value).startswith("providers.toml: ")
