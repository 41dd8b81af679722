"""Tables in every spelling, and every way in which a table can be bad."""

import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from melanoma.data.encode import learn_encoder
from melanoma.data.records import read_dataset, read_table, read_text, take
from melanoma.errors import DataError

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")

HEADER = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"
GOOD = f"""{HEADER}
ISIC_1,IP_1,male,45.0,head/neck,unknown,benign,0
ISIC_2,IP_1,female,50.0,torso,melanoma,malignant,1
ISIC_3,IP_2,,,,nevus,benign,0
"""


def write(folder: Path, text: str, name: str = "train.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(DataError) as caught:
        read_table(write(folder, text), labelled=True)
    return str(caught.value)


def test_the_competition_table_is_read_to_our_columns(tmp_path: Path) -> None:
    table, remarks = read_table(write(tmp_path, GOOD), labelled=True)
    assert ",".join(table) == "image_name,patient_id,lesion_id,sex,age_years,site,target,diagnosis"
    assert table.index.equals(pd.RangeIndex(3))
    assert table["image_name"].tolist() == ["ISIC_1", "ISIC_2", "ISIC_3"]
    assert table["sex"].isna().tolist() == [False, False, True]
    assert table["age_years"].dtype == np.float64
    assert table["age_years"].tolist()[:2] == [45, 50]
    assert np.isnan(table["age_years"][2])
    assert table["target"].dtype == np.int64
    assert table["target"].tolist() == [0, 1, 0]
    assert table["diagnosis"].tolist() == ["unknown", "melanoma", "nevus"]
    assert table["lesion_id"].isna().all()
    assert remarks == []


@pytest.mark.parametrize(
    "changed",
    [
        "\ufeff" + GOOD,
        GOOD.replace(",", ";"),
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD.replace(",", ";").replace("\n", "\r\n"),
        GOOD.replace(",male,", ', "male" ,').replace("IP_1", "'IP_1'"),
        GOOD.replace("ISIC_1,", "ISIC_1.jpg,").replace("ISIC_2,", "ISIC_2.DCM,"),
        GOOD.replace(",0\n", ",False\n").replace(",1\n", ",TRUE\n"),
        GOOD.replace(",0\n", ",0.0\n").replace(",1\n", ",1.0\n"),
        GOOD.replace(",0\n", ",Benign\n").replace(",1\n", ",MALIGNANT\n"),
        GOOD.replace("female", "F").replace("male", "M"),
        GOOD + "\n\n,,,,,,,\n",
        GOOD.replace("ISIC_3,IP_2,,,,", "ISIC_3,IP_2,unknown,N/A,NA,"),
        GOOD.replace("head/neck", "Head / Neck").replace("torso", "Posterior  Torso"),
    ],
)
def test_other_ways_to_write_a_table_are_the_same_table(tmp_path: Path, changed: str) -> None:
    expected, _ = read_table(write(tmp_path, GOOD), labelled=True)
    table, _ = read_table(write(tmp_path, changed, "other.csv"), labelled=True)
    pd.testing.assert_frame_equal(table, expected)


def test_the_isic_sites_names_of_columns_are_read(tmp_path: Path) -> None:
    text = "isic_id,patient,lesion,anatom_site_general,age_approx,sex,benign_malignant,fitzpatrick\n"
    table, remarks = read_table(write(tmp_path, text + "A,P,L,lateral torso,0,f,malignant,2\n"), labelled=True)
    assert table.iloc[0].tolist() == ["A", "P", "L", "female", 0.0, "torso", 1]
    assert remarks == ["train.csv: columns not used: fitzpatrick"]


def test_a_lesion_or_the_image_itself_stands_for_a_missing_patient(tmp_path: Path) -> None:
    text = "image,lesion_id,sex,age_approx,site,target\nA,L1,m,5,torso,0\nB,L1,m,5,torso,0\nC,,m,5,torso,1\n"
    table, remarks = read_table(write(tmp_path, text), labelled=True)
    assert table["patient_id"].tolist() == ["L1", "L1", "C"]
    assert remarks == [
        "train.csv: 2 rows without patient_id: the lesion stands for the patient",
        "train.csv: 1 rows without patient_id: each image counts as a patient of its own",
    ]


def test_a_column_that_is_blank_everywhere_is_remarked(tmp_path: Path) -> None:
    text = "image,patient,sex,age_approx,target\nA,P,NA,5,0\nB,P,unknown,6,1\n"
    _, remarks = read_table(write(tmp_path, text), labelled=True)
    assert remarks == ["train.csv: blank in every row, so not used: sex, site"]


def test_the_answers_of_an_unlabelled_table_are_not_used(tmp_path: Path) -> None:
    table, remarks = read_table(write(tmp_path, GOOD.replace(",benign,0", ",who,knows")), labelled=False)
    assert "target" not in table
    assert remarks == ["train.csv: columns not used: benign_malignant, target"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("45.0", "85+", "row 2 (age_approx '85+': not a number of years from 0 to 120)"),
        ("45.0", "-1", "row 2 (age_approx '-1': not a number of years from 0 to 120)"),
        ("45.0", "400", "row 2 (age_approx '400': not a number of years from 0 to 120)"),
        ("45.0", "inf", "row 2 (age_approx 'inf': not a number of years from 0 to 120)"),
        ("female", "woman", "row 3 (sex 'woman': neither female, male nor blank)"),
        ("malignant,1", "malignant,2", "row 3 (target '2': not one of 0, 0.0, false"),
        ("malignant,1", "malignant,", "row 3 (target '': not one of"),
        ("malignant,1", "malignant,nan", "row 3 (target 'nan': not one of"),
        ("malignant,1", "malignant,0", "row 3 (benign_malignant 'malignant': contradicts target)"),
        ("ISIC_3", "ISIC_1.png", "row 4 (image_name 'ISIC_1': already in row 2)"),
        ("ISIC_3", "", "row 4 (image_name '': blank)"),
        ("ISIC_3", "../../etc/passwd", "row 4 (image_name '../../etc/passwd': a path, not a name)"),
        ("ISIC_3", "..", "row 4 (image_name '..': a path, not a name)"),
        ("ISIC_3,", "ISIC_3,x,", "row 4 (number of cells '9': the header has 8 columns)"),
        ("ISIC_3,", "", "row 4 (number of cells '7': the header has 8 columns)"),
    ],
)
def test_a_bad_cell_is_named_by_row_column_value_and_reason(tmp_path: Path, old: str, new: str, fault: str) -> None:
    message = refusal(tmp_path, GOOD.replace(old, new))
    assert "train.csv has 1 bad row, to be mended or removed" in message
    assert fault in message


def test_all_bad_rows_are_in_one_report_in_the_files_order(tmp_path: Path) -> None:
    rows = [f"I{number},P,{'x' if number % 2 else 'm'},200,torso,,,0" for number in range(4)]
    message = refusal(tmp_path, "\n".join([HEADER, *rows]))
    assert "has 4 bad rows" in message
    assert message.index("row 2") < message.index("row 3") < message.index("row 4 (")
    assert message.endswith("and 1 more")


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    assert "sex more than once" in refusal(tmp_path, GOOD.replace("diagnosis", "Sex", 1))
    assert "no column image_name" in refusal(tmp_path, "name,target\nA,0\n")
    assert "no column target" in refusal(tmp_path, "image_name,sex\nA,f\n")
    assert "no rows" in refusal(tmp_path, HEADER + "\n")
    assert "no rows" in refusal(tmp_path, "")
    (tmp_path / "bytes.csv").write_bytes(b"image_name,target\n\xff\xfe\xfa,0\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_table(tmp_path / "bytes.csv", labelled=True)
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "absent.csv", labelled=True)


def test_a_dataset_folder_gives_both_tables_and_the_known_pairs(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "ISIC_2020_Training_GroundTruth.csv")
    write(tmp_path, "image,patient,sex,age_approx,anatom_site_general\nT_1,IP_9,m,5,torso\n", "test.csv")
    pairs = "image_name_1,image_name_2\nISIC_1,ISIC_2\nISIC_1,ISIC_9\n"
    write(tmp_path, pairs, "ISIC_2020_Training_Duplicates.csv")
    dataset = read_dataset(tmp_path)
    assert len(dataset.train) == 3
    assert dataset.test is not None
    assert "target" not in dataset.test
    assert dataset.duplicate_pairs == [("ISIC_1", "ISIC_2")]
    assert dataset.remarks == ["ISIC_2020_Training_Duplicates.csv: 1 pairs ignored: their images are not in the table"]


def test_a_dataset_folder_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no train\.csv"):
        read_dataset(tmp_path)
    write(tmp_path, GOOD, "my_train.csv")
    write(tmp_path, GOOD, "old_train.csv")
    with pytest.raises(DataError, match=r"my_train\.csv, old_train\.csv; rename one"):
        read_dataset(tmp_path)
    write(tmp_path, GOOD)
    assert read_dataset(tmp_path).test is None
    write(tmp_path, GOOD, "test.csv")
    with pytest.raises(DataError, match=r"share ISIC_1, ISIC_2, ISIC_3"):
        read_dataset(tmp_path)


def test_a_list_of_duplicates_has_two_columns(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, "a,b,c\nISIC_1,ISIC_2,ISIC_3\n", "duplicates.csv")
    with pytest.raises(DataError, match="has 3 columns"):
        read_dataset(tmp_path)


def made_table(patients: int = 200) -> pd.DataFrame:
    random = np.random.default_rng(3)
    images = random.integers(1, 9, patients)
    patient = np.repeat([f"P{number}" for number in range(patients)], images)
    target = (random.random(len(patient)) < 0.1).astype(np.int64)
    return pd.DataFrame(
        {"image_name": [f"I{row}" for row in range(len(patient))], "patient_id": patient, "target": target}
    )


def test_taking_some_rows_keeps_patients_whole_and_the_share_of_melanomas() -> None:
    table = made_table()
    taken = take(table, 300, seed=1)
    assert 290 <= len(taken) <= 300
    whole = table[table["patient_id"].isin(taken["patient_id"])]
    assert whole["image_name"].tolist() == taken["image_name"].tolist()
    assert taken["target"].sum() == pytest.approx(300 * table["target"].mean(), abs=4)
    pd.testing.assert_frame_equal(taken, take(table, 300, seed=1))
    assert taken["image_name"].tolist() != take(table, 300, seed=2)["image_name"].tolist()


def test_taking_nothing_means_all_and_taking_too_few_is_refused() -> None:
    table = made_table(10)
    assert take(table, 0, seed=0).equals(table)
    assert take(table, 10_000, seed=0).equals(table)
    assert len(take(table.drop(columns="target"), 20, seed=0)) <= 20
    big = pd.DataFrame({"patient_id": ["P"] * 5, "target": [0] * 5})
    with pytest.raises(DataError, match="smallest has 5 images"):
        take(big, 3, seed=0)


@needs_shared
def test_the_official_tables_are_read_and_encoded_whole_and_fast() -> None:
    start = time.perf_counter()
    dataset = read_dataset(SHARED / "siim2020")
    features = learn_encoder(dataset.train).features(dataset.train)
    assert time.perf_counter() - start < 2
    assert features.shape == (33_126, 2 + 3 + 7)
    assert np.isfinite(features).all()
    assert len(dataset.train) == 33_126
    assert dataset.train["target"].sum() == 584
    assert dataset.train["patient_id"].nunique() == 2_056
    assert dataset.train[["sex", "age_years", "site"]].isna().sum().tolist() == [65, 68, 527]
    assert dataset.test is not None
    assert len(dataset.test) == 10_982
    assert len(dataset.duplicate_pairs) == 425
    assert dataset.remarks == []


@needs_shared
def test_the_small_real_dataset_is_read_whole() -> None:
    dataset = read_dataset(SHARED / "isic")
    assert dataset.train["target"].value_counts().tolist() == [10_648, 1_517]
    assert dataset.train[["sex", "age_years", "site"]].isna().sum().tolist() == [287, 314, 772]
    assert dataset.test is not None
    assert len(dataset.test) == 1_200


def test_columns_that_are_blank_in_every_row_stay_text(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_name,sex,target\nA,,0\nB,,1\n")
    table, _ = read_table(tmp_path / "train.csv", labelled=True)
    assert table["sex"].fillna("unknown").tolist() == table["site"].fillna("unknown").tolist() == ["unknown"] * 2


def test_a_header_of_very_many_columns_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("image_name," + "image," * 500_000 + "target\nA,0\n")
    start = time.perf_counter()
    for read in (read_text, partial(read_table, labelled=True)):
        with pytest.raises(DataError, match="500,002 columns, over 1,000"):
            read(tmp_path / "train.csv")
    assert time.perf_counter() - start < 5
