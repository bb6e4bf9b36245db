"""
The URLs of stores and brokers.
"""

import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.targets import Target


class TestTarget:
    @pytest.mark.parametrize(
        ("url", "hosts"),
        [
            ("x://a", (("a", 9),)),
            (
                "x://a:1,b,[::1]:2,[fe80::1]",
                (("a", 1), ("b", 9), ("::1", 2), ("fe80::1", 9)),
            ),
            ("x://me@a/b", (("a", 9),)),
            ("x:///b", ()),
        ],
    )
    def test_hosts(self, url, hosts):
        """There may be several hosts, each with its port or the usual one."""
        assert hosts == Target.parse(url, port=9).hosts

    def test_parts(self):
        """User, password, path and options are read, with what was escaped."""
        target = Target.parse("X://m%40e:p%2Fw:@a/b%20c?d=%C3%A9&e=", port=9)
        assert ("x", "m@e", "p/w:") == (target.scheme, target.user, target.password)
        assert "b c" == target.path
        assert {"d": "é", "e": ""} == target.options

    def test_an_at_sign_in_a_password(self):
        """A password may have an @ that is not escaped."""
        target = Target.parse("x://me:p@ss@host", port=9)
        assert ("p@ss", (("host", 9),)) == (target.password, target.hosts)

    def test_secrets_are_hidden(self):
        """Neither text nor representation has a secret; what others say is cleaned."""
        url = "x://me:first@a/b?sasl.password=second&ssl.key.pem=third&plain=fourth"
        target = Target.parse(url, port=9)
        assert "x://me:***@a:9/b" == str(target)
        for secret in ("first", "second", "third"):
            assert secret not in repr(target)
            assert "no *** here" == target.hide(f"no {secret} here")
        assert "fourth" == target.hide("fourth")

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("x", "expected x://HOST:PORT"),
            ("x:sesame@a", "expected x://HOST:PORT"),
            ("x://a:70000", "expected a port in 0..65535, found '70000'"),
            ("x://me:sesame@::1:1", "an IPv6 address stands in brackets"),
            ("x://a?sice=1", "unknown option 'sice'; did you mean size?"),
        ],
    )
    def test_what_is_none(self, url, said):
        """One line says what is wrong, without a password."""
        with pytest.raises(DeclarationError) as caught:
            Target.parse(url, port=9, options=("size",))
        assert said in str(caught.value)
        assert "sesame" not in str(caught.value)

    def test_numbers(self):
        """An option that is to be a number says what it is, and what it should be."""
        target = Target.parse("x://a?size=4&few=0&text=x", port=9)
        assert (4, 7) == (target.number("size", 1), target.number("none", 7))
        for name in ("few", "text"):
            with pytest.raises(
                DeclarationError, match=f"option {name}: expected a whole"
            ):
                target.number(name, 1)
