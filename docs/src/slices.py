"""Parts of the test set to look at: limbeck check runs/mine --slices slices:suspects"""


def suspects(test):
    patched = test.x.clone()
    patched[..., :2, :2] = 255
    return {
        "white corner": patched,  # the same test examples, changed
        "dark": test.x.float().mean((1, 2, 3)) < 64,  # a part of them
    }
