"""The certificate of a base with user-defined pieces: it compares how other programs read texts that hold them."""

import shutil

from certificate_bounds import merge, strong_adapter

from tests.certificate.certifying import CPP, certify, one_of
from tests.certificate.planted import derive
from tests.own_pieces import cut_at_token, name_pieces


def test_other_ids_around_user_defined_pieces_are_found(base, texts, tmp_path):
    own = tmp_path / "base"
    shutil.copytree(base, own)
    (own / "tokenizer.json").unlink(missing_ok=True)
    name_pieces(own, "<ctx>")
    adapter = strong_adapter(own, tmp_path / "adapter")
    merged = merge(own, adapter, tmp_path / "merged")
    cut = tmp_path / "cut"
    shutil.copytree(merged, cut)
    cut_at_token(cut, 1700, "<ctx>")
    exports = [merged, cut, *([derive(merged, tmp_path / "f32", "f32")] if CPP else [])]

    status, found = certify(own, adapter, exports, tmp_path / "c.json", texts=[str(texts)])

    assert status == 1
    assert one_of(found, merged)["reasons"] == []
    for artefact in exports[1:]:
        assert one_of(found, artefact)["differs"] == ["tokens"]
        assert len(one_of(found, artefact)["reasons"]) == 1
        assert "of 9 texts around its user-defined pieces other ids, such as '<ctx>' [" in str(one_of(found, artefact))
